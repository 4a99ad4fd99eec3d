"""Whitening makes the kept parts equally strong; joined pooled states are those of the model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from data.dataset import Dataset
from data.errors import InputError
from moon_encoder.checkpoint import build_encoder
from moon_encoder.content import Content
from moon_encoder.dual_tower import DualTower
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.shown import Shown, Views
from moon_encoder.whiten import fit_whitening, whitening
from tests.moon_encoder.conftest import dual_config, picture


def test_the_kept_parts_are_uncorrelated_and_equally_strong():
    torch.manual_seed(0)
    vectors = torch.randn(4000, 12) @ torch.randn(12, 12) + 5
    weight, bias = whitening(vectors, 6)
    white = vectors @ weight.T + bias
    torch.testing.assert_close(white.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    covariance = white.T @ white / len(white)
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 0.02
    assert (covariance.diag() > 0.9).all() and (covariance.diag() < 1.01).all()
    weight, bias = whitening(vectors[:4], 6)
    assert not weight[4:].any() and torch.isfinite(weight).all()


def test_pooled_states_are_the_models_own(towers):
    config = dual_config(towers, vision={"pooled": {1: "mean", 3: "gem"}}, matryoshka=[])
    encoder = build_encoder(config).eval()
    assert isinstance(encoder, DualTower) and encoder.vision is not None
    model = transformers.AutoModel.from_pretrained(towers["vision"]).eval()
    images = [picture(i) for i in range(3)]
    with torch.no_grad():
        pixels = encoder.vision.normalised(encoder.vision.pixels(images))
        states = model(pixels, output_hidden_states=True).hidden_states
        gem = states[3].clamp(min=1e-6).pow(3).mean(1).pow(1 / 3)
        want = torch.cat([F.normalize(states[1].mean(1), dim=1), F.normalize(gem, dim=1)], dim=1)
    got = encoder.frozen_images(images)
    assert got is not None and got.shape == (3, encoder.vision.dim)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_a_new_encoder_starts_from_the_whitening_of_the_allowed_pictures(towers, market):
    contents = Contents.of(Dataset(market), Catalogue())  # pyright: ignore[reportCallIssue]
    encoder = build_encoder(dual_config(towers, vision={"whiten": 12}, dim=8, matryoshka=[4], hidden=0)).eval()
    assert isinstance(encoder, DualTower) and encoder.project_image is not None
    allowed = np.arange(len(contents)) % 2 == 0
    shown = Shown(contents, encoder, Views(), 0, None)  # pyright: ignore[reportCallIssue]
    assert fit_whitening(encoder, shown, allowed) == allowed.sum()
    with torch.no_grad():
        inputs = encoder.prepare([Content(image=contents.item_image(i)) for i in np.flatnonzero(allowed)])
        vectors, pooled = encoder(inputs), encoder.vision.frozen(inputs.image)
        white = encoder.project_image.white.linear(pooled)
    torch.testing.assert_close(white.mean(0), torch.zeros(12), rtol=0, atol=1e-2)
    assert white[:, 0].std() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(vectors, F.normalize(white, dim=1)[:, :8] * 12**0.5)
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert "project_image.base.weight" in trained and not any("white" in name for name in trained)


def test_whitening_is_for_a_frozen_tower_and_vectors_that_fit(towers):
    with pytest.raises(ValueError, match="whiten is for a frozen tower"):
        dual_config(towers, vision={"whiten": 12, "trainable_from": 2}, dim=8, matryoshka=[])
    with pytest.raises(ValueError, match=r"at most vision.whiten \(12\)"):
        dual_config(towers, vision={"whiten": 12}, dim=13, matryoshka=[])


def test_pooling_is_for_frozen_towers_and_states_that_blocks_make(towers):
    with pytest.raises(ValueError, match="pooled is for a frozen tower"):
        dual_config(towers, vision={"pooled": {1: "mean"}, "trainable_from": 2})
    with pytest.raises(InputError, match="no block makes hidden state 0"):
        build_encoder(dual_config(towers, vision={"pooled": {0: "mean"}}))
