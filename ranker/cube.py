"""CUBE, the content-based user behaviour extractor (MOON, arXiv 2511.11305): ids and vectors weighed by likeness.

Shape legend: B samples, N behaviours, D + E width of a behaviour's embedding, M vector width, K similarity features.
"""

import torch
from torch import Tensor, nn

from ranker.content_config import Cube
from ranker.jagged import gathered_sum, segment_ranks, segment_top
from ranker.mechanism import Evidence
from ranker.similarity import Cosines
from ranker.similarity_weights import similarity_weights
from ranker.simtier import SimTier


class CubeOverSequence(nn.Module):
    """Behaviours against one vector r (the target's or the query's): with `s_b = cos(r_b, r)` and weights W,

    fusion-interest `e' = sum_b W(s_b) e_b`, content-interest `r' = sum_b W(s_b) r_b`, and {s_b} as a SimTier histogram
    and/or the k largest. The id-interest is the sequence's own attention (model.sequences). With groups of behaviours
    (say disliked and liked) each has its own e', r' and {s_b}; W is the same.
    """

    def __init__(self, config: Cube, embedding_dim: int, vector_dim: int) -> None:
        """`embedding_dim`: D + E of the sequence."""
        super().__init__()
        self.weights = similarity_weights(config.weights, config.temperature)
        self.groups = 1 if config.split_by is None else 2
        self.split_by, self.top = config.split_by, config.top
        self.simtier = SimTier(self.groups) if config.simtier else None
        self.width = self.groups * (embedding_dim + vector_dim + config.top) + (
            self.simtier.width if self.simtier else 0
        )

    def forward(self, evidence: Evidence, vectors: str, sequence: str, found: Cosines) -> Tensor:
        """-> [e', r' of each group, {s_b}] (B, groups * (D + E + M) + K)."""
        behaviours, content = evidence.behaviours[sequence], evidence.content[vectors]
        s = behaviours.sequence
        group = None if self.split_by is None else (s.numbers[self.split_by] > 0).long()
        parts, largest = [], []
        for number in range(self.groups):
            own = found if group is None else Cosines(found.values, found.known & (group == number))
            weights = self.weights(own, s)
            parts += [behaviours.sums(weights), gathered_sum(content.items_UM, s.item, s.lengths, weights)]
            if self.top:
                largest.append(top_similarities(own, evidence, sequence, self.top))
        if self.simtier is not None:
            parts.append(self.simtier(found, s, group))
        return torch.cat(parts + largest, 1)


class CubeExtractor(nn.Module):
    """All of CUBE for one store: the sequences against the target, the target's vector and whether it has one."""

    def __init__(self, config: Cube, embedding_dims: dict[str, int], vector_dim: int) -> None:
        super().__init__()
        self.vectors, self.sequences = config.vectors, config.sequences
        self.parts = nn.ModuleDict(
            {name: CubeOverSequence(config, embedding_dims[name], vector_dim) for name in config.sequences}
        )
        self.width = vector_dim + 1 + sum(int(part.width) for part in self.parts.values())  # pyright: ignore

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width)."""
        content = evidence.content[self.vectors]
        out = [content.target_BM, content.target_present_B.to(content.target_BM.dtype).unsqueeze(1)]
        for name in self.sequences:
            found = evidence.cosines(self.vectors, name)
            out.append(self.parts[name](evidence, self.vectors, name, found))
        return torch.cat(out, 1)


def top_similarities(found: Cosines, evidence: Evidence, sequence: str, k: int) -> Tensor:
    """The k largest similarities of each sample, (B, k); -1 where fewer behaviours can be compared."""
    s = evidence.behaviours[sequence].sequence
    values = torch.where(found.known, found.values, -2.0)
    ranks = segment_ranks(values, s.row, s.lengths)
    top = segment_top(values, ranks, s.row, s.lengths.size(0), k, -2.0)
    return torch.where(top == -2.0, -1.0, top)
