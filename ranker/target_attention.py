"""Interest of a user in a target item, from a jagged behaviour sequence.

Shape legend: B samples, N behaviours, U distinct items, S distinct side combinations, D item width, E side width,
H hidden width. Item properties come once per distinct item and are gathered by index, so that everything that
depends on the item alone is computed U times, not N times.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from features.batch import SequenceBatch, Shared
from ranker.activations import activation
from ranker.config import SequenceModel
from ranker.jagged import gather
from ranker.kernels.hidden_scores import hidden_scores
from ranker.over_history import Table, of_behaviours, of_pairs, of_samples, softmax, sums


class Side(NamedTuple):
    """Embeddings of a property of behaviours: rows_SE of its S distinct values, index (N,) of each behaviour's."""

    rows_SE: Tensor
    index: Tensor


@dataclass
class Behaviours:
    """A sequence with its embeddings: items_UD, any number of sides, query_BD of the targets."""

    sequence: SequenceBatch
    items_UD: Tensor
    sides: tuple[Side, ...]
    query_BD: Tensor

    @property
    def tables(self) -> list[Table]:
        """Where the behaviours' embeddings are, D + E wide together."""
        return [(self.items_UD, self.sequence.item), *self.sides]

    def sums(self, weights: Tensor | None = None) -> Tensor:
        """Weighted sum (B, D + E) of the behaviours' embeddings; E is the width of all sides."""
        return sums(self.tables, self.sequence, weights)

    def take(self, kept: Tensor) -> "Behaviours":
        """Only the behaviours `kept` (K,), ascending indices."""
        sides = tuple(Side(side.rows_SE, side.index.index_select(0, kept)) for side in self.sides)
        return Behaviours(self.sequence.take(kept), self.items_UD, sides, self.query_BD)


class SimilarityFusion(nn.Module):
    """SA-TA's scores (MUSE, arXiv 2512.07216): `g1 a + g2 R + g3 a R` with learned g, from (1, 1, 0).

    a (N,) or (N, H): the scores of an attention over ids, before its softmax. R (N,): similarity to the target, 0
    where there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([1.0, 1.0, 0.0]))

    def forward(self, scores: Tensor, similarity: Tensor) -> Tensor:
        """-> fused scores, in the shape of `scores`."""
        r = similarity.unsqueeze(1) if scores.dim() == 2 else similarity
        return self.gamma[0] * scores + self.gamma[1] * r + self.gamma[2] * scores * r


class MeanPooling(nn.Module):
    """Mean of the behaviours' embeddings; 0 for an empty history."""

    def __init__(self, item_dim: int, side_dim: int) -> None:
        super().__init__()
        self.width = item_dim + side_dim

    def forward(self, b: Behaviours, similarity: Tensor | None = None) -> Tensor:
        """-> (B, D + E)."""
        return b.sums() / b.sequence.lengths.clamp(min=1).unsqueeze(1)


class DIN(nn.Module):
    """Deep Interest Network attention (Zhou et al., arXiv 1706.06978, section 4.3).

    Weight of behaviour k for target q: an MLP over [q, k, q - k, q * k] (and the side embedding s). Without softmax the
    interest is the plain weighted sum, as in the paper; with softmax weights sum to one over the history.

    The first layer is linear in its input, so it is split, `(Wq + Wd) q + (Wk - Wd) k + Wp (q * k) + Ws s + b`: the
    first term is computed per sample, the second per distinct item, the last per distinct side combination; where
    samples share histories the terms of k and s once a history.
    With a similarity to the target given, SA-TA fuses it into the scores.
    """

    def __init__(self, item_dim: int, side_dim: int, config: SequenceModel) -> None:
        super().__init__()
        self.width, self.item_dim = item_dim + side_dim, item_dim
        widths = [4 * item_dim + side_dim, *config.hidden]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.activations = nn.ModuleList(activation(config.activation, w) for w in config.hidden)
        self.output = nn.Linear(widths[-1], 1)
        self.softmax = config.softmax
        self.fusion = SimilarityFusion() if config.similarity_attention else None

    def forward(self, b: Behaviours, similarity: Tensor | None = None) -> Tensor:
        """similarity (N,) to the target, for SA-TA -> (B, D + E); 0 for an empty history."""
        return b.sums(self.weights(b, similarity))

    def weights(self, b: Behaviours, similarity: Tensor | None = None) -> Tensor:
        """Attention weight (N,) of every behaviour; as ranker.over_history.softmax gives it."""
        s, first = b.sequence, self.layers[0]
        assert isinstance(first, nn.Linear)
        w_q, w_k, w_d, w_p, w_s = first.weight.split([self.item_dim] * 4 + [self.width - self.item_dim], 1)
        of_query = torch.addmm(first.bias, b.query_BD, (w_q + w_d).t())
        if s.shared is not None:
            hidden = self._behind(_all_pairs(b, s.shared, w_p, torch.cat([w_k - w_d, w_s], 1), of_query))
            totals = (hidden * self.output.weight.squeeze(0)).sum(-1)  # compiled with the activation before it
            scores = of_pairs(totals, s.shared) + self.output.bias
        else:
            terms = [(b.items_UD @ (w_k - w_d).t(), s.item), (of_query, s.row)]
            widths = [side.rows_SE.size(1) for side in b.sides]
            for side, w in zip(b.sides, w_s.split(widths, 1) if widths else (), strict=True):
                terms.append((side.rows_SE @ w.t(), side.index))
            if self._in_blocks(b.query_BD):
                w, bias = self.output.weight.squeeze(0), self.output.bias
                scores = hidden_scores(b.query_BD, b.items_UD, s.row, s.item, w_p, w, bias, terms)
            else:
                hidden = (gather(b.query_BD, s.row) * gather(b.items_UD, s.item)) @ w_p.t()
                for rows, index in terms:
                    hidden = hidden + gather(rows, index)  # in place, a package with packed weights gives other scores
                scores = self.output(self._behind(hidden)).squeeze(1)
        if self.fusion is not None and similarity is not None:
            scores = self.fusion(scores, similarity)
        return softmax(scores, s) if self.softmax else scores

    def _behind(self, hidden: Tensor) -> Tensor:
        """The first layer before its activation (..., hidden) -> the last one behind it."""
        hidden = self.activations[0](hidden)
        for layer, act in zip(self.layers[1:], self.activations[1:], strict=True):
            hidden = act(layer(hidden))
        return hidden

    def _in_blocks(self, query_BD: Tensor) -> bool:
        """Whether the scores are computed in blocks: on a CPU, in full precision, with one layer of ReLU."""
        plain = len(self.layers) == 1 and isinstance(self.activations[0], nn.ReLU)
        eager = not torch.compiler.is_exporting() and not torch.is_autocast_enabled("cpu")
        return plain and eager and query_BD.device.type == "cpu" and query_BD.dtype in (torch.float32, torch.float64)


def _all_pairs(b: Behaviours, shared: Shared, product_HD: Tensor, history: Tensor, of_query_BH: Tensor) -> Tensor:
    """DIN's first layer before its activation at all places of shared histories, (H, C, L, hidden): what depends on the
    history alone, `history (hidden, D + E) @ [k, s]`, is computed once for all its samples."""
    embedded, width = of_behaviours(b.tables, shared), product_HD.size(0)
    products = of_samples(b.query_BD, shared).unsqueeze(2) * embedded[:, :, : product_HD.size(1)].unsqueeze(1)
    hidden = (products.flatten(0, 2) @ product_HD.t()).view(*products.shape[:3], width)
    once = (embedded.flatten(0, 1) @ history.t()).view(*embedded.shape[:2], width)
    return hidden + of_samples(of_query_BH, shared).unsqueeze(2) + once.unsqueeze(1)


class MultiHeadTargetAttention(nn.Module):
    """Multi-head cross attention with the target as the query (Vaswani et al., arXiv 1706.03762, section 3.2.2).

    `softmax(q k / sqrt(head_dim)) v` per head, heads concatenated; keys and values are projected per distinct item.
    """

    def __init__(self, item_dim: int, side_dim: int, config: SequenceModel) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.width = config.heads * config.head_dim
        self.query = nn.Linear(item_dim, self.width)
        self.item_key = nn.Linear(item_dim, self.width)
        self.item_value = nn.Linear(item_dim, self.width)
        self.side_key = nn.Linear(side_dim, self.width, bias=False) if side_dim else None
        self.side_value = nn.Linear(side_dim, self.width, bias=False) if side_dim else None
        self.fusion = SimilarityFusion() if config.similarity_attention else None

    def forward(self, b: Behaviours, similarity: Tensor | None = None) -> Tensor:
        """similarity (N,) to the target, for SA-TA -> (B, heads * head_dim); 0 for an empty history."""
        s = b.sequence
        weights = self.weights(b, similarity)
        values = [(self.item_value(b.items_UD), s.item)]
        if self.side_value is not None:
            widths = [side.rows_SE.size(1) for side in b.sides]
            for side, w in zip(b.sides, self.side_value.weight.split(widths, 1), strict=True):
                values.append((side.rows_SE @ w.t(), side.index))
        parts = []
        for head in range(self.heads):
            columns = slice(head * self.head_dim, (head + 1) * self.head_dim)
            weight = weights[:, head].contiguous()
            found = [sums([(v[:, columns].contiguous(), index)], s, weight) for v, index in values]
            parts.append(torch.stack(found).sum(0))
        return torch.cat(parts, 1)

    def weights(self, b: Behaviours, similarity: Tensor | None = None) -> Tensor:
        """Attention weight (N, heads) of every behaviour."""
        s = b.sequence
        key = gather(self.item_key(b.items_UD), s.item)
        if self.side_key is not None:
            widths = [side.rows_SE.size(1) for side in b.sides]
            for side, w in zip(b.sides, self.side_key.weight.split(widths, 1), strict=True):
                key = key + gather(side.rows_SE @ w.t(), side.index)
        query = gather(self.query(b.query_BD), s.row)
        scores = (query * key).unflatten(1, (self.heads, self.head_dim)).sum(2) / self.head_dim**0.5
        if self.fusion is not None and similarity is not None:
            scores = self.fusion(scores, similarity)
        return softmax(scores, s)


def sequence_module(item_dim: int, side_dim: int, config: SequenceModel) -> nn.Module:
    """The mechanism `config.kind`; its attribute `width` is the width of the interest it gives."""
    if config.kind == "mean":
        return MeanPooling(item_dim, side_dim)
    return {"din": DIN, "mha": MultiHeadTargetAttention}[config.kind](item_dim, side_dim, config)
