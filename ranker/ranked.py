"""Rows sorted once for every exact metric: by score, and by group within it. A slice leaves rows out of both orders.

The second sort is of whole numbers, group << bits | place by score: one array, no permutation to carry along. Neither
AUC nor GAUC of a slice needs a sort of its own.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Sorted:
    """Rows by score, or by (group, score).

    Attributes:
        label: (n,) 0 or 1. score: (n,). row: (n,) place of each before sorting. group: (n,); None: they are one group.
    """

    label: np.ndarray
    score: np.ndarray
    row: np.ndarray
    group: np.ndarray | None = None

    def only(self, mask: np.ndarray) -> "Sorted":
        """The rows of a mask over the rows before sorting, in the same order."""
        kept = np.flatnonzero(mask[self.row])
        group = None if self.group is None else self.group[kept]
        return replace(self, label=self.label[kept], score=self.score[kept], row=self.row[kept], group=group)

    def aucs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(place of its first row, rows, AUC) of every group, in order; AUC is NaN with one class. Exact: pairs are
        counted in whole numbers."""
        n = len(self.label)
        fresh = np.zeros(n, bool)
        fresh[:1] = True
        if self.group is not None:
            fresh[1:] = self.group[1:] != self.group[:-1]
        edges = np.append(np.flatnonzero(fresh), n)
        fresh[1:] |= self.score[1:] != self.score[:-1]
        ties = np.append(np.flatnonzero(fresh), n)
        negatives = np.zeros(n + 1, np.int64)  # before each place
        np.cumsum(self.label == 0, out=negatives[1:])
        positive = np.flatnonzero(self.label)
        tie = np.cumsum(fresh)[positive]  # of each positive, from 1
        won = np.zeros(len(positive) + 1, np.int64)  # twice the pairs that positives up to here win from all before
        np.cumsum(negatives[ties[tie - 1]] + negatives[ties[tie]], out=won[1:])
        start, rows = edges[:-1], np.diff(edges)
        bounds = edges - negatives[edges]
        positives = np.diff(bounds)
        twice = np.diff(won[bounds]) - 2 * negatives[start] * positives
        pairs = positives * (rows - positives)
        with np.errstate(invalid="ignore"):
            return start, rows, np.where(pairs > 0, twice, np.nan) / (2 * np.maximum(pairs, 1))


@dataclass(frozen=True)
class Ranked:
    """The same rows in both orders."""

    by_score: Sorted
    by_group: Sorted

    @classmethod
    def of(cls, label: np.ndarray, score: np.ndarray, group: np.ndarray) -> "Ranked":
        """Sort rows (n,); those of equal scores keep their order."""
        by_score = sorted_by_score(label, score)
        return cls(by_score, _sorted_by_group(by_score, group))

    def only(self, mask: np.ndarray) -> "Ranked":
        """The rows of a mask (n,) bool over the rows before sorting."""
        return Ranked(self.by_score.only(mask), self.by_group.only(mask))


def sorted_by_score(label: np.ndarray, score: np.ndarray) -> Sorted:
    """Rows by score, those of equal scores in the order they have."""
    order = np.argsort(score, kind="stable")
    return Sorted(label[order], score[order], order)


def _sorted_by_group(rows: Sorted, group: np.ndarray) -> Sorted:
    """Rows that are sorted by score by (group, score); `group` (n,) is in their order before sorting."""
    bits = len(group).bit_length()
    code = group
    if group.dtype.kind not in "iu" or not 0 <= int(group.min()) <= int(group.max()) < 2 ** (63 - bits):
        code = np.unique(group, return_inverse=True)[1]
    key = code.astype(np.int64)[rows.row] << bits
    key |= np.arange(len(key))
    key.sort()
    place = key & (2**bits - 1)
    row = rows.row[place]
    return Sorted(rows.label[place], rows.score[place], row, group[row])
