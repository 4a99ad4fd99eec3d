"""Saturating power laws `y = a - b x^-c` with bands, and how well they foretell the largest point.

For a given c the law is linear in a and b, so c is searched on a grid and a, b are exact least squares: no start values
and no local optima. Bands draw the seeds of every x again. Where no change is established nothing is fitted.
"""

from typing import Any

import numpy as np
from scipy import stats

EXPONENTS = np.geomspace(0.03, 4.0, 120)
DRAWS = 300
CURVE = 40


def power_law(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(a, b, c) of the least squares fit of y (n,) at x (n,) > 0."""
    bases = (x / x[0]) ** -EXPONENTS[:, None]  # from 1 on: x may be a million
    centred = bases - bases.mean(1, keepdims=True)
    spread = np.maximum((centred**2).sum(1), 1e-18)
    slope = centred @ (y - y.mean()) / spread
    left = y.mean() + slope[:, None] * centred - y
    best = int(np.argmin((left**2).sum(1)))
    c = float(EXPONENTS[best])
    return float(y.mean() - slope[best] * bases[best].mean()), float(-slope[best] * x[0] ** c), c


def at(law: tuple[float, float, float], x: np.ndarray) -> np.ndarray:
    """The law at x (n,)."""
    a, b, c = law
    return a - b * x**-c


def scaling_law(x: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """x (n,) ascending, y (n, S) by seed.

    -> rise: last less first x, its 95 % t interval over seeds. Unless that holds zero also the law: a, b, c with
    intervals; r2; curve {x, y, low, high}; extrapolation {predicted, low, high, measured, error, held} of the largest x
    from the others.
    """
    seeds, rise = y.shape[1], y[-1] - y[0]
    half = float(stats.t.ppf(0.975, seeds - 1) * rise.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else float("nan")
    low, high = float(rise.mean()) - half, float(rise.mean()) + half
    found = {"rise": {"value": float(rise.mean()), "low": low, "high": high}}
    return found if low <= 0 <= high else found | _law(x, y, seed)


def _law(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    rng, (n, seeds) = np.random.default_rng(seed), y.shape
    law, mean = power_law(x, y.mean(1)), y.mean(1)
    short = power_law(x[:-1], mean[:-1])
    grid = np.geomspace(x[0], x[-1] * 2, CURVE)
    laws, curves, foretold = [], [], []
    for _ in range(DRAWS):
        drawn = np.take_along_axis(y, rng.integers(0, seeds, (n, seeds)), 1).mean(1)
        laws.append(power_law(x, drawn))
        curves.append(at(laws[-1], grid))
        foretold.append(float(at(power_law(x[:-1], drawn[:-1]), x[-1:])[0]))
    reach = np.percentile(laws, [2.5, 97.5], axis=0)
    band = np.percentile(curves, [2.5, 97.5], axis=0)
    low, high = np.percentile(foretold, [2.5, 97.5])
    predicted, total = float(at(short, x[-1:])[0]), float(((mean - mean.mean()) ** 2).sum())
    parts = zip("abc", law, *reach, strict=True)
    return {
        **{k: {"value": v, "low": float(lo), "high": float(hi)} for k, v, lo, hi in parts},
        "r2": 1 - float(((at(law, x) - mean) ** 2).sum()) / total if total else 1.0,
        "curve": {"x": grid.tolist(), "y": at(law, grid).tolist(), "low": band[0].tolist(), "high": band[1].tolist()},
        "extrapolation": {
            "predicted": predicted, "low": float(low), "high": float(high), "measured": float(mean[-1]),
            "error": predicted - float(mean[-1]), "held": bool(low <= mean[-1] <= high),
        },
    }  # fmt: skip
