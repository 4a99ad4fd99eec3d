"""Search recall: how high in a fixed gallery, ranked by cosine, the right items of a query stand.

    HR@K         share of queries with a right item among the first K (recall@K where one item is right)
    precision@K  right items among the first K, divided by K
    MRR          mean of 1 / rank of the first right item

A query none of whose right items has a vector counts as missed. Shapes: Q queries, F figures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from moon_encoder.search import CUTOFFS, Held, Listed, Ranking, rank

DRAWS = 1000
LEVEL = (0.025, 0.975)


def target_ranks(query: Tensor, gallery: Tensor, target: Tensor) -> np.ndarray:
    """Rank from 1 of gallery row target (Q,) for each query (Q, D) in gallery (N, D); (Q,) int64.

    A tie counts against the target, so a collapsed encoder ranks last and not first.
    """
    relevance = Listed.one(target.cpu().numpy())
    return rank(Held(query), Held(gallery), relevance, cutoffs=(1,), device=query.device).first


def names(cutoffs: Sequence[int] = CUTOFFS) -> list[str]:
    """Names of the figures, in the order of `values`."""
    return [*(f"hr@{k}" for k in cutoffs), *(f"precision@{k}" for k in cutoffs), "mrr"]


def values(ranking: Ranking, cutoffs: Sequence[int] = CUTOFFS) -> np.ndarray:
    """Each query's contribution to each figure, (Q, F) float64; a figure is the mean of its column."""
    reciprocal = np.divide(1.0, ranking.first, out=np.zeros(len(ranking.first)), where=ranking.first > 0)
    precision = ranking.hits / np.asarray(cutoffs)
    return np.concatenate([ranking.hits > 0, precision, reciprocal[:, None]], axis=1)


def interval(values: np.ndarray, cluster: np.ndarray | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of the means of `values` (Q, F): low (F,) and high (F,).

    Queries are drawn, or with `cluster` (Q,) whole clusters, such as users whose queries depend on each other.
    """
    sums, sizes = values, np.ones(len(values))
    if cluster is not None:
        _, at = np.unique(cluster, return_inverse=True)
        sizes = np.bincount(at).astype(np.float64)
        sums = np.zeros((len(sizes), values.shape[1]))
        np.add.at(sums, at, values)
    rng, n = np.random.default_rng(seed), len(sums)
    means = np.empty((DRAWS, values.shape[1]))
    for draw in range(DRAWS):
        times = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        means[draw] = times @ sums / (times @ sizes)
    low, high = np.quantile(means, LEVEL, axis=0)
    return low, high


def report(
    values: np.ndarray,
    gallery: int,
    category: np.ndarray | None = None,
    cluster: np.ndarray | None = None,
    figures: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Figures of values (Q, F) with intervals, overall and by category (Q,) text, largest category first.

    {queries, gallery, FIGURE: {value, low, high}, ..., categories: {NAME: {queries, gallery, FIGURE: ...}}}
    """
    figures = figures or names()

    def part(rows: np.ndarray) -> dict[str, Any]:
        low, high = interval(values[rows], None if cluster is None else cluster[rows])
        found: dict[str, Any] = {"queries": len(rows), "gallery": gallery}
        for at, name in enumerate(figures):
            mean = float(values[rows, at].mean())
            found[name] = {"value": mean, "low": float(low[at]), "high": float(high[at])}
        return found

    found = part(np.arange(len(values)))
    if category is not None:
        kinds, at, counts = np.unique(category, return_inverse=True, return_counts=True)
        order = np.lexsort((kinds, -counts))
        found["categories"] = {str(kinds[kind]): part(np.flatnonzero(at == kind)) for kind in order}
    return found


def figures(ranks: np.ndarray, gallery: int, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """The figures of ranks (Q,) where one item is right, without intervals, with both sizes."""
    ranking = Ranking(ranks, (ranks[:, None] <= np.asarray(cutoffs)) & (ranks[:, None] > 0))
    means = values(ranking, cutoffs).mean(0)
    sizes: dict[str, float] = {"queries": len(ranks), "gallery": gallery}
    return sizes | dict(zip(names(cutoffs), means.tolist(), strict=True))


def hit_rate_difference(ranks: np.ndarray, baseline: np.ndarray, k: int, seed: int = 0) -> tuple[float, float, float]:
    """HR@k of `ranks` minus that of `baseline` over the same queries (Q,), with its 95 % bootstrap interval."""
    gain = ((ranks <= k).astype(np.float64) - (baseline <= k))[:, None]
    low, high = interval(gain, seed=seed)
    return float(gain.mean()), float(low[0]), float(high[0])
