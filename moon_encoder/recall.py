"""Search recall: where in a fixed gallery, ranked by cosine, is the item that belongs to a query.

Shapes: Q queries, N gallery items, D vector dim. The search is exact, in blocks of queries.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moon_encoder.losses import unit

CUTOFFS = (1, 5, 10, 50, 100)
BLOCK_SCORES = 1 << 23  # scores alive at once


@torch.no_grad()
def target_ranks(query: Tensor, gallery: Tensor, target: Tensor) -> np.ndarray:
    """Rank from 1 of gallery row target (Q,) for each query (Q, D) in gallery (N, D); (Q,) int64.

    A tie counts against the target, so a collapsed encoder ranks last and not first.
    """
    gallery = unit(gallery)
    step = max(BLOCK_SCORES // max(len(gallery), 1), 1)
    ranks = [torch.empty(0, dtype=torch.int64)]
    for at in range(0, len(query), step):
        scores = unit(query[at : at + step]) @ gallery.T
        own = scores.gather(1, target[at : at + step, None])
        ranks.append((scores >= own).sum(1).cpu())
    return torch.cat(ranks).numpy()


def figures(ranks: np.ndarray, gallery: int, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """HR@K (= recall@K: one item is relevant), precision@K = HR@K / K and MRR of ranks (Q,), with both sizes."""
    out: dict[str, float] = {"queries": len(ranks), "gallery": gallery, "mrr": float((1 / ranks).mean())}
    for k in cutoffs:
        out[f"hr@{k}"] = float((ranks <= k).mean())
        out[f"precision@{k}"] = out[f"hr@{k}"] / k
    return out


def hit_rate_difference(
    ranks: np.ndarray, baseline: np.ndarray, k: int, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """HR@k of `ranks` minus that of `baseline` over the same queries (Q,), with its 95 % bootstrap interval."""
    gain = (ranks <= k).astype(np.float64) - (baseline <= k)
    rng = np.random.default_rng(seed)
    means = np.array([gain[rng.integers(0, len(gain), len(gain))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gain.mean()), float(low), float(high)
