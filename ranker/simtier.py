"""SimTier: how many behaviours are how similar to the target (Sheng et al., arXiv 2407.19467)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from features.batch import SequenceBatch
from ranker.jagged import summed_in
from ranker.similarity import Cosines

TIERS = 22  # 20 of .1 over [-1, 1), one for cosine 1, one for behaviours that cannot be compared
LEVELS = 20
_lower = 1e-6  # tiers begin so much lower, so that rounding leaves a picture beside itself in the last


class SimTier(nn.Module):
    """`h_k = w_k log(1 + number of behaviours in tier k)`, (B, groups * 22); w learned, from 1.

    Tier k < 20 holds cosines in [k/10 - 1, (k+1)/10 - 1), tier 20 those of 1 (the same picture), tier 21 behaviours
    where either side has no vector. With groups (say disliked and liked) each has a histogram of its own.
    """

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups, self.width = groups, groups * TIERS
        self.weight = nn.Parameter(torch.ones(self.width))

    def forward(self, found: Cosines, sequence: SequenceBatch, group: Tensor | None = None) -> Tensor:
        """group (N,) int64 below `groups`, or None for one -> (B, groups * 22)."""
        place = tiers(found)
        if group is not None:
            place = group * TIERS + place
        size = sequence.lengths.size(0) * self.width
        counts = self.weight.new_zeros(size, dtype=summed_in(self.weight.dtype))
        counts = counts.index_add(0, sequence.row * self.width + place, torch.ones_like(place, dtype=counts.dtype))
        return self.weighed(counts.view(-1, self.width))

    def weighed(self, counts: Tensor) -> Tensor:
        """counts (B, groups * 22) of the tiers -> (B, groups * 22)."""
        return torch.log1p(counts).to(self.weight.dtype) * self.weight


def tiers(found: Cosines) -> Tensor:
    """Tier (N,) int64 of every behaviour."""
    level = torch.floor((found.values.detach().double() + 1 + _lower) * (LEVELS / 2)).long().clamp(0, LEVELS)
    return torch.where(found.known, level, TIERS - 1)


@contextmanager
def edges_moved(by: float) -> Iterator[None]:
    """Meanwhile tiers begin `by` lower: a cosine on an edge, which rounding may put in either tier, is in the other."""
    global _lower
    before = _lower
    _lower += by
    try:
        yield
    finally:
        _lower = before
