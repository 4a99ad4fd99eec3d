"""Search over a long history: which behaviours an attention is to see. No gradient flows through the choice.

Shape legend: B samples, N behaviours, U distinct items, D item width, K behaviours kept.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from features.spec import SAME
from ranker.config import Search
from ranker.jagged import segment_ranks
from ranker.mechanism import Evidence
from ranker.similarity import pair_dots


class BehaviourSearch(nn.Module, ABC):
    """Keeps the `top` behaviours of the highest relevance in each history, of equal ones the most recent."""

    def __init__(self, top: int) -> None:
        super().__init__()
        self.top = top

    @abstractmethod
    def relevance(self, evidence: Evidence, sequence: str) -> tuple[Tensor, Tensor | None]:
        """(scores (N,), whether a behaviour may be kept (N,) bool; None: every one)."""

    def forward(self, evidence: Evidence, sequence: str) -> Tensor:
        """-> indices (K,) int64 of the behaviours kept, ascending: their order in time stays."""
        s = evidence.behaviours[sequence].sequence
        scores, eligible = self.relevance(evidence, sequence)
        if eligible is not None:
            scores = scores.masked_fill(~eligible, float("-inf"))
        kept = segment_ranks(scores, s.row, s.lengths) < self.top
        return (kept if eligible is None else kept & eligible).nonzero().squeeze(1)


class CosineSearch(BehaviourSearch):
    """Highest cosine with the target's vector (MUSE, arXiv 2512.07216); needs both vectors."""

    def __init__(self, top: int, vectors: str) -> None:
        super().__init__(top)
        self.vectors = vectors

    def relevance(self, evidence: Evidence, sequence: str) -> tuple[Tensor, Tensor | None]:
        found = evidence.cosines(self.vectors, sequence)
        return found.values, found.known


class InnerSearch(BehaviourSearch):
    """Highest inner product of the id embeddings, as they are trained (SIM, arXiv 2006.05639, soft search)."""

    def relevance(self, evidence: Evidence, sequence: str) -> tuple[Tensor, Tensor | None]:
        b = evidence.behaviours[sequence]
        return pair_dots(b.items_UD.detach(), b.query_BD.detach(), b.sequence), None


class CategorySearch(BehaviourSearch):
    """The most recent of the target's own category (SIM, hard search); an unknown category finds nothing."""

    def __init__(self, top: int, category: str) -> None:
        super().__init__(top)
        self.number = SAME + category

    def relevance(self, evidence: Evidence, sequence: str) -> tuple[Tensor, Tensor | None]:
        same = evidence.behaviours[sequence].sequence.numbers[self.number]
        return same, same > 0


class SimHashSearch(BehaviourSearch):
    """Most agreeing signs under random projections of the id embeddings (ETA, arXiv 2108.04468): the nearest by angle.

    The projections are drawn once and never trained; agreement is bits minus twice the Hamming distance.
    """

    def __init__(self, top: int, item_dim: int, bits: int) -> None:
        super().__init__(top)
        self.projection: Tensor
        self.register_buffer("projection", torch.randn(item_dim, bits))

    def relevance(self, evidence: Evidence, sequence: str) -> tuple[Tensor, Tensor | None]:
        b = evidence.behaviours[sequence]
        items, query = (torch.where(e @ self.projection >= 0, 1.0, -1.0) for e in (b.items_UD, b.query_BD))
        return pair_dots(items, query, b.sequence), None


def behaviour_search(config: Search, item_dim: int) -> BehaviourSearch:
    """The search `config.kind`."""
    if config.kind == "cosine":
        assert config.vectors is not None
        return CosineSearch(config.top, config.vectors)
    if config.kind == "category":
        assert config.category is not None
        return CategorySearch(config.top, config.category)
    return SimHashSearch(config.top, item_dim, config.bits) if config.kind == "simhash" else InnerSearch(config.top)
