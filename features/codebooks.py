"""Semantic ids: residual k-means codes of item vectors (QARM, arXiv 2411.11739, section 3.2; RQ, arXiv 2203.01941).

    code_1 = argmin_k |r - c_1k|      code_2 = argmin_k |(r - c_1,code_1) - c_2k|      ...

Code 0 means "no vector", centroid k has code k + 1.

Shape legend: n vectors, M their width, L levels, K centroids a level.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Codebooks:
    """centroids_LKM: (L, K, M) float32, one codebook a level."""

    centroids_LKM: np.ndarray

    @property
    def levels(self) -> int:
        """Codes of a vector."""
        return len(self.centroids_LKM)

    @property
    def rows(self) -> int:
        """Rows of a table of codes: the centroids and "no vector"."""
        return self.centroids_LKM.shape[1] + 1

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes (n, L) int16 from 1, of vectors (n, M).

        In double precision: a vector has the same codes in whatever batch it comes.
        """
        rest = vectors.astype(np.float64)
        codes = np.empty((len(rest), self.levels), np.int16)
        for level, centroids in enumerate(self.centroids_LKM.astype(np.float64)):
            nearest = ((centroids**2).sum(1) - 2 * rest @ centroids.T).argmin(1)
            rest -= centroids[nearest]
            codes[:, level] = nearest + 1
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The vectors (n, M) float32 that codes (n, L) stand for: the sum of their centroids."""
        return np.sum([self.centroids_LKM[level][codes[:, level] - 1] for level in range(codes.shape[1])], axis=0)


class ItemCodes:
    """Codes of the rows of a table of vectors, each computed when it is first asked for."""

    def __init__(self, codebooks: Codebooks, vectors: Callable[[np.ndarray], np.ndarray], rows: int) -> None:
        """`vectors`: of table rows (n,), as stored. `rows`: of the table."""
        self.codebooks, self._vectors = codebooks, vectors
        self._codes = np.zeros((rows, codebooks.levels), np.int16)  # 0: not asked for yet, or no vector

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Codes (n, L) int16 of table rows (n,), 0 for row 0 ("no vector"). Safe to call from several threads."""
        codes = self._codes[rows]
        new = np.flatnonzero((codes[:, 0] == 0) & (rows > 0))
        if len(new):
            codes[new] = self._codes[rows[new]] = self.codebooks.encode(self._vectors(rows[new]))
        return codes

    def grown(self, vectors: Callable[[np.ndarray], np.ndarray], rows: int) -> "ItemCodes":
        """The same for a table that begins with the same rows and has more; this one stays as it is."""
        other = ItemCodes(self.codebooks, vectors, rows)
        other._codes[: len(self._codes)] = self._codes
        return other
