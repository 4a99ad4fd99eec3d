"""The slow copy of an encoder against the formula, and the shortcut that it closes."""

import pytest
import torch

from moon_encoder.content import Content
from moon_encoder.dual_tower import DualTower
from moon_encoder.losses import info_nce
from moon_encoder.momentum import Momentum
from moon_encoder.negatives import Block, Earlier, Labels
from tests.moon_encoder.conftest import dual_config, picture


@pytest.fixture
def encoder(towers) -> DualTower:
    return DualTower.build(dual_config(towers, vision={"trainable_from": 2})).train()


def trained(encoder):
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def test_the_copy_follows_by_the_formula_and_leaves_the_encoder_alone(encoder):
    slow, before = Momentum(encoder, 0.9), {k: p.detach().clone() for k, p in encoder.named_parameters()}
    inputs = encoder.prepare([Content(image=picture(1)), Content(text="red shoe"), Content("blue", picture(2))])
    torch.testing.assert_close(slow(encoder, inputs), encoder(inputs).detach(), rtol=0, atol=0)
    with torch.no_grad():
        for p in trained(encoder).values():
            p.add_(torch.randn_like(p))
    slow.follow(encoder)
    assert slow.names == list(trained(encoder)) and len(slow.names) < len(before)  # what is frozen is not copied
    keys = slow(encoder, inputs)
    assert not keys.requires_grad and not torch.equal(keys, encoder(inputs))
    now = {k: p.detach().clone() for k, p in encoder.named_parameters()}
    with torch.no_grad():
        for name, p in trained(encoder).items():
            p.copy_(0.9 * before[name] + 0.1 * now[name])
    torch.testing.assert_close(keys, encoder(inputs).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slow(encoder, inputs, 1), keys, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in slow.parameters())


def test_queued_vectors_do_not_pull_all_vectors_together():
    """A shift that all vectors of today share lowers the loss where the positive has it and the queue cannot; not where
    the positive is made as the queue is."""
    torch.manual_seed(0)
    items = torch.randn(400, 8)
    labels = Labels(torch.arange(400), *torch.full((2, 400), -1))
    query = items + torch.randn(400, 8)

    def shifted(positive_moves: bool) -> float:
        far = torch.full((8,), 3.0)
        positive = items + far if positive_moves else items
        return float(info_nce(query + far, positive, labels, [], 5.0, earlier=Earlier(Block(items, labels), positive)))

    start = float(info_nce(query, items, labels, [], 5.0, earlier=Earlier(Block(items, labels), items)))
    assert shifted(True) < start < shifted(False)
