"""GradCache against the plain batch in float64: every gradient to 1e-6, with dropout, and over two ranks."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from features.ranks import Ranks, average_gradients
from moon_encoder.contrast import Contrast, Negatives, Objective, Triplet, Vectors
from moon_encoder.grad_cache import backward
from moon_encoder.negatives import Block, Earlier, Labels, Queue
from tests.moon_encoder.on_ranks import on_two_ranks

WEIGHTS = {2: 1.0, 6: 2.0}


def network(dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 6)).double()


def data(hard=1):
    """Eight pairs; a product and a user cross the halves. Items: positives, then hard negatives."""
    torch.manual_seed(0)
    query, item, other = (torch.randn(8, 5, dtype=torch.float64) for _ in range(3))
    group = torch.tensor([0, 1, 2, 3, 4, 1, 6, 7])
    user = torch.tensor([0, 1, 2, 3, 2, 5, 6, 7])
    none = torch.full((8,), -1)
    return query, item, other[: 8 * hard], (torch.arange(8), group, user), (torch.arange(20, 28), none, none)


def batch(rows, hard=1):
    query, item, other, mine, theirs = data(hard)
    labels = Labels(*(torch.cat([a[rows], b[rows][: len(a[rows]) * hard]]) for a, b in zip(mine, theirs, strict=True)))
    return query[rows], torch.cat([item[rows], other[rows]]) if hard else item[rows], labels


def contrast(**more):
    torch.manual_seed(2)
    objective = Objective(**{"temperature": 0.1, **more})
    return Contrast(objective, Negatives(hard=1, queue=1), Triplet(weight=0.5), WEIGHTS).double()


def earlier(rows):
    """Five queued vectors, and the positives of `rows` as their encoder made them."""
    queue = Queue(16, 6).double()
    torch.manual_seed(3)
    none = torch.full((5,), -1)
    queue.push(Block(torch.randn(5, 6, dtype=torch.float64), Labels(torch.arange(50, 55), none, none)))
    return Earlier(queue.block(), torch.randn(8, 6, dtype=torch.float64)[rows])


def gradients(rows, parts, dropout=0.0, **more):
    """Loss and gradients of one step over `rows`, `parts` contents at a time."""
    encoder, objective = network(dropout), contrast(**more)
    query, item, labels = batch(rows)
    lost = torch.tensor([0, 2])

    def loss_of(vectors):
        return objective.loss(Vectors(vectors[0], vectors[1], labels, vectors[2], lost), earlier(rows))

    torch.manual_seed(9)
    loss = backward(encoder, [query, item, data()[2][rows][lost]], loss_of, parts)  # type: ignore[arg-type]
    found = [*encoder.parameters(), *objective.parameters()]
    after = torch.rand(1)  # the generator goes on as if there had been one run
    return loss, found, after


@pytest.mark.parametrize("loss", ["info_nce", "circle"])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_parts_give_the_plain_batchs_gradient(loss, parts):
    expected_loss, expected, _ = gradients(slice(0, 8), None, loss=loss)
    got_loss, got, _ = gradients(slice(0, 8), parts, loss=loss)
    torch.testing.assert_close(got_loss, expected_loss, rtol=0, atol=1e-10)
    for a, b in zip(got, expected, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            assert b.grad.abs().max() > 1e-4
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10)


def test_the_second_run_drops_what_the_first_one_dropped():
    """With dropout the parts' gradient must be that of the parts' own loss: checked by finite differences of it."""
    _, got, after = gradients(slice(0, 8), 3, dropout=0.5)
    weight, step = got[0], 1e-6

    def loss_at(shift):
        encoder, objective = network(0.5), contrast()
        query, item, labels = batch(slice(0, 8))
        lost = torch.tensor([0, 2])
        with torch.no_grad():
            encoder[0].weight[1, 2] += shift
        torch.manual_seed(9)
        with torch.no_grad():
            vectors = [
                torch.cat([encoder(part) for part in x.split(3)]) for x in (query, item, data()[2][slice(0, 8)][lost])
            ]
        return objective.loss(Vectors(vectors[0], vectors[1], labels, vectors[2], lost), earlier(slice(0, 8))).detach()

    numeric = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[1, 2], numeric, rtol=1e-5, atol=1e-8)
    assert torch.equal(after, gradients(slice(0, 8), 3, dropout=0.5)[2])


def _rank(rank, folder):
    ranks = Ranks(rank, 2, torch.device("cpu"))
    out = {}
    for parts in (None, 2):
        loss, found, _ = gradients(slice(4 * rank, 4 * rank + 4), parts)
        average_gradients(found, ranks)
        dist.all_reduce(loss)
        out[parts] = (loss / 2, [p.grad for p in found])
    if rank == 0:
        torch.save(out, folder / "out.pt")


def test_two_ranks_equal_one_with_the_union_batch_in_parts_or_not(tmp_path):
    """The triplets are those of pairs 0 and 2 of each half, so one rank with the union has four."""
    on_two_ranks(_rank, tmp_path)
    out = torch.load(tmp_path / "out.pt")
    encoder, objective = network(), contrast()
    query, item, labels = batch(slice(0, 8))
    lost = torch.tensor([0, 2, 4, 6])

    def loss_of(vectors):
        return objective.loss(Vectors(vectors[0], vectors[1], labels, vectors[2], lost), earlier(slice(0, 8)))

    expected_loss = backward(encoder, [query, item, data()[2][lost]], loss_of, None)  # type: ignore[arg-type]
    expected = [p.grad for p in (*encoder.parameters(), *objective.parameters())]
    for loss, found in out.values():
        torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-8)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
