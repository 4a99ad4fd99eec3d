"""Intervals by drawing clusters (users; where none is known, rows) with replacement."""

import numpy as np

from experiments.lift.estimates import LEVEL, Interval

BOOTSTRAP = 0xB007


def cluster_weights(clusters: int, draws: int, seed: int) -> np.ndarray:
    """(draws + 1, clusters) how often each cluster counts: once each (row 0), then as drawn with replacement."""
    rng = np.random.default_rng([seed, BOOTSTRAP])  # never the stream that made the data
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), draws)
    return np.concatenate([np.ones((1, clusters)), drawn]).astype(np.float32)


def interval(draws: np.ndarray) -> Interval:
    """Row 0 as the estimate, percentiles of the rest as the interval; None if the estimate is not finite."""
    if not np.isfinite(draws[0]):
        return Interval(None, None, None)
    rest = draws[1:][np.isfinite(draws[1:])]
    if not len(rest):
        return Interval(float(draws[0]), None, None)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(rest, [tail, 100 - tail])
    return Interval(float(draws[0]), float(low), float(high))
