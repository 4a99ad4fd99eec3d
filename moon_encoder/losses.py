"""Contrastive losses, as their definitions. s = cosine; p = the query's positive; n = pool entries not excluded.

    InfoNCE  -log( e^(s_p/tau) / (e^(s_p/tau) + sum_n e^(s_n/tau)) )              van den Oord et al., arXiv 1807.03748
    circle   log( 1 + sum_n e^(g a_n (s_n - m)) * e^(-g a_p (s_p - 1 + m)) )      Sun et al., arXiv 2002.10857
             a_p = [1 + m - s_p]+, a_n = [s_n + m]+, both detached
    triplet  [s_n - s_p + margin]+

Shapes: B queries, N pool entries, D vector dim. The pool is scored in chunks that the backward computes again, so
memory beyond the pool itself does not grow with N. Every loss is the mean over queries, a scalar. `dim` takes the
cosines over a Matryoshka prefix (Kusupati et al., arXiv 2205.13147). `earlier` adds entries of a queue to the sum over
n; for them s_p is the cosine to the positive as the queue's own encoder makes it (see moon_encoder.momentum).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moon_encoder.negatives import Block, Earlier, Labels

CHUNK = 8192
EXCLUDED = -1e4  # a logit that counts nothing, and whose gradient is 0 rather than nan where all are excluded


class Temperature(nn.Module):
    """Learnable inverse temperature 1/tau, kept within [1, 100]; tau starts at `initial` (CLIP, arXiv 2103.00020)."""

    def __init__(self, initial: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(initial)))

    def forward(self) -> Tensor:
        return self.log_scale.clamp(0.0, math.log(100.0)).exp()


def info_nce(
    query: Tensor,
    positive: Tensor,
    labels: Labels,
    pool: Sequence[Block],
    scale: Tensor | float,
    dim: int | None = None,
    earlier: Earlier | None = None,
) -> Tensor:
    """InfoNCE of query (B, D) and positive (B, D) against the pool; `scale` = 1/tau; `labels` are the positives'."""
    return _loss(query, positive, labels, pool, lambda s: s * scale, lambda s: s * scale, dim, earlier)


def circle(
    query: Tensor,
    positive: Tensor,
    labels: Labels,
    pool: Sequence[Block],
    gamma: float = 64.0,
    margin: float = 0.25,
    dim: int | None = None,
    earlier: Earlier | None = None,
) -> Tensor:
    """Circle loss of query (B, D) and positive (B, D) against the pool, gamma = g, margin = m."""

    def of_positive(s_p: Tensor) -> Tensor:
        return gamma * (1 + margin - s_p).detach().relu() * (s_p - 1 + margin)

    def of_negative(s_n: Tensor) -> Tensor:
        return gamma * (s_n + margin).detach().relu() * (s_n - margin)

    return _loss(query, positive, labels, pool, of_positive, of_negative, dim, earlier)


def triplet(query: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.1, dim: int | None = None) -> Tensor:
    """Triplet loss, each (B, D): `negative` was shown in the same search and not bought."""
    query, positive, negative = unit(query, dim), unit(positive, dim), unit(negative, dim)
    return ((query * negative).sum(1) - (query * positive).sum(1) + margin).relu().mean()


def matryoshka(loss: Callable[[int], Tensor], weights: dict[int, float]) -> Tensor:
    """Weighted mean of `loss(dim)` over the prefixes {dim: weight}."""
    return torch.stack([weight * loss(dim) for dim, weight in weights.items()]).sum() / sum(weights.values())


def unit(vectors: Tensor, dim: int | None = None) -> Tensor:
    """The first `dim` numbers of each row, scaled to length 1."""
    return F.normalize(vectors[:, :dim], dim=1)


def _loss(
    query: Tensor,
    positive: Tensor,
    labels: Labels,
    pool: Sequence[Block],
    of_positive: Callable[[Tensor], Tensor],
    of_negative: Callable[[Tensor], Tensor],
    dim: int | None,
    earlier: Earlier | None,
) -> Tensor:
    """Mean of log(1 + sum_n e^(of_negative(s_n) - of_positive(s_p))), each n against the s_p of its own encoder."""
    query = unit(query, dim)
    sets = [(positive, pool)] + ([(earlier.positive, [earlier.block])] if earlier is not None else [])
    parts = [
        _log_sum(query, labels, blocks, of_negative, dim) - of_positive((query * unit(own, dim)).sum(1))
        for own, blocks in sets
    ]
    return F.softplus(torch.stack(parts).logsumexp(0)).mean()


def _log_sum(
    query: Tensor, labels: Labels, pool: Sequence[Block], score: Callable[[Tensor], Tensor], dim: int | None
) -> Tensor:
    """log sum_n e^score(s_n) over the pool entries that `labels` does not exclude; (B,)."""

    def part(query: Tensor, vectors: Tensor, theirs: Labels) -> Tensor:
        scores = score(query @ unit(vectors, dim).T)
        return scores.masked_fill(labels.excludes(theirs), EXCLUDED).logsumexp(1)

    parts = [
        checkpoint(part, query, block.vectors[at : at + CHUNK], block.labels[at : at + CHUNK], use_reentrant=False)
        for block in pool
        for at in range(0, len(block.labels), CHUNK)
    ]
    if not parts:
        return query.new_full((len(query),), EXCLUDED)
    return torch.stack(parts, dim=1).logsumexp(1)  # type: ignore[arg-type]
