"""CUBE, the content-based user behaviour extractor (MOON, arXiv 2511.11305): ids and vectors weighed by likeness.

Shape legend: B samples, N behaviours, D + E width of a behaviour's embedding, M vector width, K similarity features.
"""

import torch
from torch import Tensor, nn

from features.batch import SequenceBatch
from features.spec import SEARCHES
from ranker.content_config import Cube
from ranker.item_vectors import Content
from ranker.kernels.content_interest import ContentInterest, Jagged, VectorTable, content_interest
from ranker.mechanism import Evidence
from ranker.over_history import largest, sums
from ranker.similarity import Cosines
from ranker.similarity_weights import similarity_weights
from ranker.simtier import SimTier
from ranker.target_attention import Behaviours


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

    def forward(self, evidence: Evidence, vectors: str, sequence: str, against: str | None = None) -> Tensor:
        """-> [e', r' of each group, {s_b}] (B, groups * (D + E + M) + K).

        `vectors`: of the behaviours. `against`: those that r is of; None: the same.
        """
        behaviours, content = evidence.behaviours[sequence], evidence.content[vectors]
        if one_pass(content.items_UM):
            return self._in_one_pass(behaviours, content, evidence.content[against or vectors])
        found, s = evidence.cosines(vectors, sequence, against), behaviours.sequence
        group = None if self.split_by is None else (s.numbers[self.split_by] > 0).long()
        parts, largest = [], []
        for number in range(self.groups):
            own = found if group is None else Cosines(found.values, found.known & (group == number))
            weights = self.weights(own, s)
            parts.append(sums([*behaviours.tables, (content.items_UM, s.item)], s, weights))
            if self.top:
                largest.append(top_similarities(own, s, self.top))
        if self.simtier is not None:
            parts.append(self.simtier(found, s, group))
        return torch.cat(parts + largest, 1)

    def _in_one_pass(self, behaviours: Behaviours, content: Content, against: Content) -> Tensor:
        """The same by the kernel that reads every vector once."""
        groups = (behaviours,)
        if self.split_by is not None:
            above = behaviours.sequence.numbers[self.split_by] > 0
            groups = tuple(behaviours.take(mask.nonzero().squeeze(1)) for mask in (~above, above))
        parts, counts, largest = [], [], []
        for own in groups:
            s, found = own.sequence, self._interest(own.sequence, content, against)
            parts += [own.sums(found.weights), found.interest]
            counts.append(found.counts)
            if self.top:
                known = content.present_U.index_select(0, s.item) & against.target_present_B.index_select(0, s.row)
                largest.append(top_similarities(Cosines(found.cosines, known), s, self.top))
        if self.simtier is not None:
            parts.append(self.simtier.weighed(torch.cat(counts, 1)))
        return torch.cat(parts + largest, 1)

    def _interest(self, s: SequenceBatch, content: Content, against: Content) -> ContentInterest:
        table, behaviours = VectorTable(content.items_UM, content.present_U), Jagged(s.item, s.lengths, s.row)
        temperature, threshold = self.weights.log_temperature, getattr(self.weights, "threshold", None)
        target, present = against.target_BM, against.target_present_B
        return content_interest(table, behaviours, target, present, temperature, threshold)  # pyright: ignore


class CubeExtractor(nn.Module):
    """All of CUBE for one store: the sequences against the target, the target's vector and whether it has one.

    With vectors of queries, of the same encoder: the sequences against the query as well, the earlier searches against
    target and query, the query's vector and whether it has one, and `cos(r_t, r_q)` with whether it exists.
    """

    def __init__(self, config: Cube, embedding_dims: dict[str, int], vector_dim: int) -> None:
        super().__init__()
        self.vectors, self.sequences, self.queries = config.vectors, config.sequences, config.queries
        parts = {name: CubeOverSequence(config, embedding_dims[name], vector_dim) for name in config.sequences}
        self.width = vector_dim + 1
        if config.queries is not None:
            searches = config.model_copy(update={"split_by": None})
            for name in config.sequences:
                parts[f"{name}_query"] = CubeOverSequence(config, embedding_dims[name], vector_dim)
            for name in (SEARCHES, f"{SEARCHES}_query"):
                parts[name] = CubeOverSequence(searches, embedding_dims[SEARCHES], vector_dim)
            self.width += vector_dim + 3
        self.parts = nn.ModuleDict(parts)
        self.width += sum(part.width for part in parts.values())

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width)."""
        content = evidence.content[self.vectors]
        out = [content.target_BM, content.target_present_B.to(content.target_BM.dtype).unsqueeze(1)]
        for name in self.sequences:
            out.append(self.parts[name](evidence, self.vectors, name))
        if self.queries is not None:
            out += self._query_side(evidence, self.queries)
        return torch.cat(out, 1)

    def _query_side(self, evidence: Evidence, queries: str) -> list[Tensor]:
        target, query = evidence.content[self.vectors], evidence.content[queries]
        asked, both = query.target_present_B, query.target_present_B & target.target_present_B
        likeness = torch.where(both, (target.unit_target_BM * query.unit_target_BM).sum(1), 0)
        scalars = torch.stack([likeness, both.to(likeness.dtype), asked.to(likeness.dtype)], 1)
        out = [query.target_BM, scalars]
        for name in self.sequences:
            out.append(self.parts[f"{name}_query"](evidence, self.vectors, name, queries))
        out.append(self.parts[SEARCHES](evidence, queries, SEARCHES, self.vectors))
        out.append(self.parts[f"{SEARCHES}_query"](evidence, queries, SEARCHES))
        return out


def one_pass(vectors: Tensor) -> bool:
    """Whether the kernel does it: on CUDA. On a CPU the sparse products over distinct items are 2 to 4 times faster
    than its walk over blocks, and an exported program has plain operators only."""
    return vectors.is_cuda and not torch.compiler.is_exporting()


def top_similarities(found: Cosines, s: SequenceBatch, k: int) -> Tensor:
    """The k largest similarities of each sample, (B, k); -1 where fewer behaviours can be compared."""
    values = torch.where(found.known, found.values, -2.0)
    top = largest(values, s, k, -2.0)
    return torch.where(top == -2.0, -1.0, top)
