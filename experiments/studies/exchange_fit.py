"""The exchange rate: what a point of an intermediate metric is worth in AUC or GAUC, fitted over encoder versions.

A version is one point: the versions are the sample, so the bootstrap draws versions, and seeds within them. With some
ten versions an interval is wide, and that is what is known.
"""

from typing import Any

import numpy as np
from scipy import stats

DRAWS, PERMUTATIONS = 4000, 2000
LEAST = 4  # versions that a fit needs
POINT = 0.01


def exchange_rate(metric: np.ndarray, gain: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """metric (V,) of versions; gain (V, S) in AUC over id-only, by seed.

    -> slope (gain a point of the metric, least squares of the means), its 95 % interval, r2, spearman with a p-value by
    permutation, leave_one_out (smallest and largest slope without one version), versions.
    """
    rng, mean = np.random.default_rng(seed), gain.mean(1)
    versions, seeds = gain.shape
    drawn = rng.integers(0, versions, (DRAWS, versions))
    picked = rng.integers(0, seeds, (DRAWS, versions, seeds))
    x = metric[drawn]
    kept = (np.diff(np.sort(x), axis=1) > 0).sum(1) >= 2  # three different values at least
    slopes = _slopes(x[kept], np.take_along_axis(gain[drawn], picked, 2).mean(2)[kept])
    low, high = np.percentile(slopes, [2.5, 97.5])
    left = [float(_slopes(np.delete(metric, v)[None], np.delete(mean, v)[None])[0]) for v in range(versions)]
    ranks = stats.rankdata(metric), stats.rankdata(mean)
    order = float(np.corrcoef(*ranks)[0, 1])
    shuffled = rng.permuted(np.tile(ranks[1], (PERMUTATIONS, 1)), axis=1)
    by_chance = _slopes(np.tile(ranks[0], (PERMUTATIONS, 1)), shuffled) * ranks[0].std() / ranks[1].std()
    above = int(np.sum(np.abs(by_chance) >= abs(order) - 1e-12))
    return {
        "slope": float(_slopes(metric[None], mean[None])[0]) * POINT,
        "low": float(low) * POINT,
        "high": float(high) * POINT,
        "r2": float(np.corrcoef(metric, mean)[0, 1] ** 2),
        "spearman": order,
        "p": (above + 1) / (PERMUTATIONS + 1),
        "leave_one_out": [min(left) * POINT, max(left) * POINT],
        "versions": versions,
    }


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares slopes of the rows of y on those of x, (n, V) each."""
    centred = x - x.mean(1, keepdims=True)
    return (centred * (y - y.mean(1, keepdims=True))).sum(1) / np.maximum((centred**2).sum(1), 1e-18)


def sign(low: float, high: float) -> str:
    """What an interval says of a slope."""
    return "positive" if low > 0 else "negative" if high < 0 else "not established"
