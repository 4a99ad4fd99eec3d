"""PCA whitening of picture vectors (Jegou & Chum, ECCV 2012): what all pictures share stops deciding."""

import numpy as np
import torch
from torch import Tensor

from moon_encoder.dual_tower import DualTower, Whitening
from moon_encoder.shown import PLAIN, Shown

MOST = 20_000  # pictures that it is fitted on
LEAST = 1e-3  # of the largest variance is added to each, so that noise is not blown up
ITERATIONS = 2  # of the randomised PCA


def whitening(vectors: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Weight (dim, D) and bias (dim,) of the map that makes the first `dim` principal parts of (n, D) equally strong.

    Rows follow falling variance, so that prefixes are usable. `dim` beyond n or D: rows of zeros.
    """
    mean = vectors.mean(0)
    parts = min(dim, *vectors.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rank = min(parts + 32, *vectors.shape)
        _, scale, basis = torch.pca_lowrank(vectors - mean, q=rank, center=False, niter=ITERATIONS)
    variance = scale[:parts].square() / max(len(vectors) - 1, 1)
    weight = vectors.new_zeros(dim, vectors.shape[1])
    weight[:parts] = (basis[:, :parts] / (variance + LEAST * variance[0]).sqrt()).T
    return weight, -weight @ mean


@torch.no_grad()
def fit_whitening(encoder: DualTower, shown: Shown, allowed: np.ndarray) -> int:
    """Set the whitening of the pictures; returns how many it is fitted on. allowed: (items,) bool, train items."""
    assert encoder.vision is not None and encoder.project_image is not None
    white = encoder.project_image.white
    assert isinstance(white, Whitening)
    rows = np.flatnonzero(allowed & shown.contents.has("image"))
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST])
    parts = []
    for at in range(0, len(rows), 256):
        inputs = encoder.precompute(shown.items(rows[at : at + 256], "image", PLAIN).to(encoder.device))  # type: ignore[arg-type]
        parts.append(encoder.vision.trained(inputs.image).float().cpu())
    weight, bias = whitening(torch.cat(parts), white.linear.out_features)
    white.linear.weight.copy_(weight)
    white.linear.bias.copy_(bias)
    return len(rows)
