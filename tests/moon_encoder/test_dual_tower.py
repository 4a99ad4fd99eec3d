"""The dual tower: where it starts, mixes of modalities, caches, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from data.errors import InputError
from moon_encoder.checkpoint import build_encoder
from moon_encoder.content import Content
from moon_encoder.dual_tower import DualTower
from tests.moon_encoder.conftest import contents, dual_config, picture


def vectors(encoder, batch) -> torch.Tensor:
    with torch.no_grad():
        return encoder(batch)


def test_untrained_it_gives_the_towers_own_vectors(towers):
    encoder = build_encoder(dual_config(towers))
    assert isinstance(encoder, DualTower) and encoder.vision is not None and encoder.text is not None
    image, words = picture(1), "red shirt"
    of_image = encoder.vision.trained(encoder.vision.frozen(encoder.vision.pixels([image])))
    of_text = F.linear(encoder.text(*encoder.text.tokens([words])[:2]), encoder.project_text.base.weight)  # type: ignore
    batch = encoder.prepare([Content(image=image), Content(words), Content(words, image)])
    got = vectors(encoder, batch)
    assert torch.equal(got[0], of_image[0])
    torch.testing.assert_close(got[1], of_text[0])
    torch.testing.assert_close(got[2], (F.normalize(of_image) + F.normalize(of_text))[0])
    assert encoder.dim == 16 and encoder.matryoshka == (4, 8)


def test_the_base_of_a_narrower_vector_keeps_cosines_apart(towers):
    encoder = build_encoder(dual_config(towers, dim=8))
    assert isinstance(encoder, DualTower) and encoder.project_image is not None
    base = encoder.project_image.base.weight
    assert isinstance(base, torch.Tensor)
    torch.testing.assert_close(base @ base.T, torch.eye(8), atol=1e-5, rtol=0)


def test_a_content_does_not_depend_on_its_batch(dual):
    together = vectors(dual, dual.prepare(contents()))
    alone = torch.cat([vectors(dual, dual.prepare([content])) for content in contents()])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.dtype == torch.float32 and together.shape == (6, 16)


def test_parts_of_a_batch_and_parts_put_together(dual):
    batch = dual.prepare(contents())
    expected = vectors(dual, batch)
    for rows in (slice(1, 4), slice(0, 1), torch.tensor([5, 0, 2, 2]), torch.tensor([3])):
        torch.testing.assert_close(vectors(dual, batch[rows]), expected[rows], atol=1e-5, rtol=1e-5)
    again = batch[:2].cat([batch[2:3], batch[3:4], batch[4:]])
    torch.testing.assert_close(vectors(dual, again), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("more", [{}, {"vision": {"trainable_from": 2}}, {"text": {"trainable_from": 0}}])
def test_kept_outputs_of_the_frozen_blocks_give_the_same_vectors_and_gradients(towers, more):
    encoder = build_encoder(dual_config(towers, **more))
    batch = encoder.prepare(contents())
    kept = encoder.precompute(batch)
    got = {}
    for name, inputs in (("whole", batch), ("kept", encoder.precompute(kept))):
        encoder.zero_grad()
        out = encoder(inputs)
        out.square().sum().backward()
        got[name] = [out.detach(), *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)]
    for a, b in zip(got["whole"], got["kept"], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    rows = torch.tensor([4, 1, 5])
    picked = kept[rows].cat([kept[:1]])
    torch.testing.assert_close(vectors(encoder, picked), got["kept"][0][[4, 1, 5, 0]], atol=1e-5, rtol=1e-5)


def test_the_frozen_blocks_take_no_gradient(dual):
    dual.train()(dual.prepare(contents())).sum().backward()
    trained = {name for name, parameter in dual.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in trained} == {"vision", "text", "project_image", "project_text", "fusion"}
    assert not any(name.startswith("vision.model") or ".layer.0." in name for name in trained)


def test_a_tower_alone(towers):
    seeing = build_encoder(dual_config(towers).model_copy(update={"text": None}))
    assert vectors(seeing, seeing.prepare([Content("red", picture(1))])).shape == (1, 16)
    with pytest.raises(InputError, match="content 1: this encoder reads pictures only"):
        seeing.prepare([Content(image=picture(1)), Content("red")])


def test_cut_texts_are_marked_by_content(dual):
    batch = dual.prepare([Content(image=picture(1)), Content("red " * 2500, picture(2)), Content("red")])
    assert batch.truncated.tolist() == [False, True, False] and batch[1:].truncated.tolist() == [True, False]
