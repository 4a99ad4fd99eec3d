"""Exact search by cosine, in blocks: memory does not grow with queries times gallery.

Shapes: Q queries, N gallery rows, D vector dim, B and M rows of a block, K neighbours. Queries and gallery may be
memory-mapped stores; a block of them is decoded at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from features.store import Version
from moon_encoder.losses import unit

CUTOFFS = (1, 5, 10, 50, 100)
BLOCK_QUERIES = 1024
BLOCK_SCORES = 1 << 23  # scores alive at once
TIE = 1e-6  # cosines closer than this count as equal: float32 products differ by less between two ways to compute them


class Vectors(Protocol):
    """Vectors that are read where they are needed.

    Attributes:
        present: (n,) bool, rows that have a vector.
    """

    present: np.ndarray

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Tensor:
        """(len(rows), D) float32 of length 1; anything where there is no vector."""
        ...


class Held:
    """Vectors (n, D) in memory, or in a memory map of numbers."""

    def __init__(self, vectors: Tensor | np.ndarray, present: np.ndarray | None = None, dim: int | None = None) -> None:
        """`dim`: a Matryoshka prefix."""
        self.vectors, self.dim = vectors, dim
        self.present = np.ones(len(vectors), bool) if present is None else present

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: np.ndarray) -> Tensor:
        if isinstance(self.vectors, Tensor):
            found = self.vectors[torch.from_numpy(rows).to(self.vectors.device)]
        else:
            found = torch.from_numpy(np.asarray(self.vectors[rows], np.float32))
        return unit(found.float(), self.dim)


class Stored:
    """The rows of a store's version."""

    def __init__(self, version: Version, dim: int | None = None) -> None:
        """`dim`: a Matryoshka prefix."""
        self.version, self.dim, self.present = version, dim, version.present

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: np.ndarray) -> Tensor:
        return unit(torch.from_numpy(self.version.vectors(rows, self.dim)[0]))


class Picked:
    """Some rows of other vectors, in any order."""

    def __init__(self, vectors: Vectors, rows: np.ndarray) -> None:
        self.vectors, self.rows, self.present = vectors, rows, vectors.present[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Tensor:
        return self.vectors.take(self.rows[rows])


class Masked:
    """Other vectors, of which fewer count."""

    def __init__(self, vectors: Vectors, present: np.ndarray) -> None:
        self.vectors, self.present = vectors, present

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: np.ndarray) -> Tensor:
        return self.vectors.take(rows)


class Relevance(Protocol):
    """Which gallery rows are right for a query."""

    def mask(self, queries: np.ndarray, start: int, stop: int) -> Tensor:
        """(len(queries), stop - start) bool on the CPU, for gallery rows start..stop."""
        ...


class Listed:
    """Every query's right rows are named: rows[offsets[q]:offsets[q + 1]]."""

    def __init__(self, offsets: np.ndarray, rows: np.ndarray) -> None:
        """offsets: (Q + 1,) int64; rows: (R,) int64 gallery rows."""
        self.offsets, self.rows = offsets, rows

    @classmethod
    def one(cls, rows: np.ndarray) -> "Listed":
        """One right row (Q,) for each query."""
        return cls(np.arange(len(rows) + 1), rows)

    @classmethod
    def of_pairs(cls, queries: int, query: np.ndarray, row: np.ndarray) -> "Listed":
        """From pairs (query (R,), row (R,)) in any order; a pair that stands twice counts once."""
        pairs = np.unique(np.stack([query, row], axis=1), axis=0) if len(query) else np.empty((0, 2), np.int64)
        return cls(np.searchsorted(pairs[:, 0], np.arange(queries + 1)), pairs[:, 1])

    def mask(self, queries: np.ndarray, start: int, stop: int) -> Tensor:
        out = torch.zeros(len(queries), stop - start, dtype=torch.bool)
        first, last = self.offsets[queries], self.offsets[queries + 1]
        place = np.repeat(np.arange(len(queries)), last - first)
        skipped = np.cumsum(last - first) - (last - first)
        rows = self.rows[np.arange(len(place)) - skipped[place] + first[place]]
        inside = (rows >= start) & (rows < stop)
        out[torch.from_numpy(place[inside]), torch.from_numpy(rows[inside] - start)] = True
        return out


class SameCode:
    """Right is what has the query's code, such as its product; code -1 matches nothing."""

    def __init__(self, query: np.ndarray, gallery: np.ndarray) -> None:
        """query: (Q,) int64 codes; gallery: (N,) int64 codes."""
        self.query, self.gallery = query, gallery

    def mask(self, queries: np.ndarray, start: int, stop: int) -> Tensor:
        mine = torch.from_numpy(self.query[queries])[:, None]
        return (mine == torch.from_numpy(self.gallery[start:stop])) & (mine >= 0)


@dataclass(frozen=True)
class Ranking:
    """Where the right rows stand.

    Attributes:
        first: (Q,) int64 rank from 1 of the best right row; 0 where no right row has a vector.
        hits: (Q, cutoffs) int64 right rows among the first K, for each cutoff.
    """

    first: np.ndarray
    hits: np.ndarray


@torch.no_grad()
def rank(
    query: Vectors,
    gallery: Vectors,
    relevance: Relevance,
    own: np.ndarray | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda queries: None,
) -> Ranking:
    """Rank the gallery for every query (all must have a vector).

    `own`: (Q,) gallery row that is the query itself and is left out, -1 for none. A tie counts against the right row,
    so a collapsed encoder ranks last and not first.
    """
    first = np.zeros(len(query), np.int64)
    hits = np.zeros((len(query), len(cutoffs)), np.int64)
    for queries, vectors, left_out in _queries(query, own, device):
        best = torch.full((len(queries),), -torch.inf, device=device)
        top = _Top(len(queries), max(cutoffs), device)
        for start, scores in _scores(vectors, gallery, left_out, device):
            right = relevance.mask(queries, start, start + scores.shape[1]).to(device)
            best = torch.maximum(best, scores.masked_fill(~right, -torch.inf).amax(1))
            top.add(scores - TIE * right, right)
        found = top.payload & top.scores.isfinite()
        hits[queries] = found.cumsum(1)[:, [k - 1 for k in cutoffs]].cpu().numpy()
        near = found.any(1)
        first[queries] = torch.where(near, found.int().argmax(1) + 1, 0).cpu().numpy()
        far = (~near & best.isfinite()).nonzero()[:, 0]
        if len(far):
            first[queries[far.cpu().numpy()]] = _count_above(
                queries[far.cpu().numpy()], vectors[far], best[far], left_out[far], gallery, relevance, device
            )
        progress(len(queries))
    return Ranking(first, hits)


@torch.no_grad()
def neighbours(
    query: Vectors, gallery: Vectors, k: int, own: np.ndarray | None = None, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery rows nearest to each query: rows (Q, k) int64, best first, and cosines (Q, k) float32.

    Where the gallery holds fewer, the row is -1 and the cosine -inf. `own` as in `rank`.
    """
    rows, cosines = np.full((len(query), k), -1, np.int64), np.full((len(query), k), -np.inf, np.float32)
    for queries, vectors, left_out in _queries(query, own, device):
        top = _Top(len(queries), k, device)
        for start, scores in _scores(vectors, gallery, left_out, device):
            top.add(scores, torch.arange(start, start + scores.shape[1], device=device).expand_as(scores))
        rows[queries] = torch.where(top.scores.isfinite(), top.payload, -1).cpu().numpy()
        cosines[queries] = top.scores.cpu().numpy()
    return rows, cosines


class _Top:
    """The k best scores so far (B, k), best first, each with something that goes along."""

    def __init__(self, queries: int, k: int, device: torch.device | str) -> None:
        self.k = k
        self.scores = torch.full((queries, k), -torch.inf, device=device)
        self.payload = torch.zeros(queries, k, dtype=torch.int64, device=device)

    def add(self, scores: Tensor, payload: Tensor) -> None:
        """Scores (B, M) of further rows with their payload (B, M)."""
        best, at = scores.topk(min(self.k, scores.shape[1]), dim=1)
        all_scores = torch.cat([self.scores, best], dim=1)
        payload = torch.cat([self.payload.to(payload.dtype), payload.gather(1, at)], dim=1)
        self.scores, at = all_scores.topk(self.k, dim=1)
        self.payload = payload.gather(1, at)


def _queries(query: Vectors, own: np.ndarray | None, device: torch.device | str):
    """(query numbers (B,), vectors (B, D), left-out gallery rows (B,)) a block at a time."""
    for at in range(0, len(query), BLOCK_QUERIES):
        queries = np.arange(at, min(at + BLOCK_QUERIES, len(query)))
        left_out = torch.full((len(queries),), -1) if own is None else torch.from_numpy(own[queries])
        yield queries, query.take(queries).to(device), left_out.to(device)


def _scores(vectors: Tensor, gallery: Vectors, left_out: Tensor, device: torch.device | str):
    """(first gallery row, cosines (B, M)) a block at a time; -inf where there is no vector, or the query itself."""
    rows = max(BLOCK_SCORES // len(vectors), 1)
    for start in range(0, len(gallery), rows):
        stop = min(start + rows, len(gallery))
        scores = vectors @ gallery.take(np.arange(start, stop)).to(device).T
        present = torch.from_numpy(np.array(gallery.present[start:stop])).to(device)
        if not present.all():
            scores[:, ~present] = -torch.inf
        mine = ((left_out >= start) & (left_out < stop)).nonzero()[:, 0]
        scores[mine, left_out[mine] - start] = -torch.inf
        yield start, scores


def _count_above(
    queries: np.ndarray,
    vectors: Tensor,
    best: Tensor,
    left_out: Tensor,
    gallery: Vectors,
    relevance: Relevance,
    device: torch.device | str,
) -> np.ndarray:
    """Rank from 1 (B,) of the best right row with cosine `best` (B,)."""
    above = torch.zeros(len(queries), dtype=torch.int64, device=device)
    for start, scores in _scores(vectors, gallery, left_out, device):
        right = relevance.mask(queries, start, start + scores.shape[1]).to(device)
        above += ((scores >= best[:, None] - TIE) & ~right).sum(1)
    return above.cpu().numpy() + 1
