"""The interest of one sequence: search, similarity as side information, and the attention over what was found."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ranker.behaviour_search import behaviour_search
from ranker.config import SequenceModel
from ranker.hstu import HSTU
from ranker.mechanism import Evidence
from ranker.simtier import TIERS, tiers
from ranker.target_attention import Behaviours, Side, sequence_module


class SequenceInterest(nn.Module):
    """`attention(search(behaviours))`; its attribute `width` is the width of the interest."""

    def __init__(self, name: str, item_dim: int, side_dim: int, config: SequenceModel) -> None:
        super().__init__()
        self.name, self.config = name, config
        extra = config.similarity_side.dim if config.similarity_side else 0
        made = HSTU if config.kind == "hstu" else sequence_module
        self.attention = made(item_dim, side_dim + extra, config)
        self.width = int(self.attention.width)  # pyright: ignore[reportArgumentType]
        self.tiers = nn.Parameter(torch.randn(TIERS, extra) * 0.1) if extra else None
        self.search = behaviour_search(config.search, item_dim) if config.search else None

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width); narrows the evidence to the behaviours that the search found."""
        if self.search is not None:
            evidence.narrow(self.name, self.search(evidence, self.name))
        b = evidence.behaviours[self.name]
        if self.tiers is not None and self.config.similarity_side is not None:
            found = evidence.cosines(self.config.similarity_side.vectors, self.name)
            s = replace(b.sequence, shared=None)  # this side depends on the target
            b = Behaviours(s, b.items_UD, (*b.sides, Side(self.tiers, tiers(found))), b.query_BD)
        if self.config.similarity_attention is None:
            return self.attention(b)
        found = evidence.cosines(self.config.similarity_attention, self.name)
        return self.attention(b, found.values)
