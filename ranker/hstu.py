"""HSTU: pointwise SiLU attention over a behaviour sequence and its target (Zhai et al., arXiv 2402.17152, section 3).

Shape legend: B samples, U distinct items, N behaviours, W width = H heads * head width, b samples of a block and n its
longest history.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from features.batch import SequenceBatch
from ranker.config import SequenceModel
from ranker.jagged import segment_sum
from ranker.target_attention import Behaviours, SimilarityFusion

TIMES = 32  # one bias for each power of two of the seconds between two behaviours
CELLS = 1 << 21  # pairs (times heads) of a block of histories
KEPT = 1 << 26  # with more of them in a batch, blocks are computed again in the backward pass instead of being kept


class RelativeBias(nn.Module):
    """`p[distance] + t[log2(1 + seconds)]` of two behaviours, a number a head; from 0."""

    def __init__(self, heads: int, positions: int, time: bool) -> None:
        super().__init__()
        self.positions = positions
        self.distance = nn.Parameter(torch.zeros(positions, heads))
        self.time = nn.Parameter(torch.zeros(TIMES, heads)) if time else None

    def forward(self, distance: Tensor, seconds: Tensor | None) -> Tensor:
        """distance (...) int64 from 0 (itself), seconds (...) -> (..., H)."""
        bias = F.embedding(distance.clamp(0, self.positions - 1), self.distance)
        if self.time is not None and seconds is not None:
            bias = bias + F.embedding(time_bucket(seconds), self.time)
        return bias


class HSTULayer(nn.Module):
    """`u, v, q, k = SiLU(f1(norm(x)))`, `A = SiLU(q k + bias) / positions`, `x + f2(norm(A v) * u)` (equations 1-3).

    Behaviours look at themselves and at earlier ones of their history, the target at itself and at all of them.
    """

    def __init__(self, config: SequenceModel) -> None:
        super().__init__()
        self.heads, self.head_dim, self.positions = config.heads, config.head_dim, config.positions
        width = config.heads * config.head_dim
        self.norm = nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width)
        self.bias = RelativeBias(config.heads, config.positions, config.time_bias)
        self.attended_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (n, W) -> u, v, q, k, (n, W) each."""
        u, v, q, k = F.silu(self.uvqk(self.norm(x))).chunk(4, 1)
        return u, v, q, k

    def target(
        self,
        target_BW: Tensor,
        behaviours: tuple[Tensor, ...],
        s: SequenceBatch,
        place: Tensor,
        fuse: SimilarityFusion | None,
        similarity: Tensor | None,
    ) -> Tensor:
        """The target's row, (B, W); `behaviours`: their `split`. place (N,): of each in its history, from 0."""
        u, v, q, k = self.split(target_BW)
        scores = self._heads(q.index_select(0, s.row) * behaviours[3]).sum(2)
        distance = s.lengths.index_select(0, s.row) - place
        scores = scores + self.bias(distance, s.numbers.get("age"))
        if fuse is not None and similarity is not None:
            scores = fuse(scores, similarity)
        attended = segment_sum((self._weights(scores).unsqueeze(2) * self._heads(behaviours[1])).flatten(1), s.lengths)
        zero = torch.zeros_like(s.lengths)
        own = self._heads(q * k).sum(2) + self.bias(zero, zero)
        attended = attended + (self._weights(own).unsqueeze(2) * self._heads(v)).flatten(1)
        return target_BW + self.output(self.attended_norm(attended) * u)

    def behaviours(
        self, x_NW: Tensor, parts: tuple[Tensor, ...], s: SequenceBatch, place: Tensor, blocks: "list[Tensor] | None"
    ) -> Tensor:
        """The behaviours' rows, (N, W). `blocks`: samples that are computed together; None: by pairs."""
        u, v, q, k = parts
        attended = self._by_pairs(v, q, k, s, place) if blocks is None else self._by_blocks(v, q, k, s, blocks)
        return x_NW + self.output(self.attended_norm(attended) * u)

    def _by_blocks(self, v: Tensor, q: Tensor, k: Tensor, s: SequenceBatch, blocks: "list[Tensor]") -> Tensor:
        starts = torch.cumsum(s.lengths, 0) - s.lengths
        age, rows, found = s.numbers.get("age"), [], []
        again = torch.is_grad_enabled() and _cells(s.lengths, self.heads) > KEPT
        for samples in blocks:
            lengths = s.lengths.index_select(0, samples)
            place = torch.arange(int(lengths.max()), device=v.device)
            there = place < lengths.unsqueeze(1)
            at = torch.where(there, starts.index_select(0, samples).unsqueeze(1) + place, 0)
            arguments = (v[at], q[at], k[at], None if age is None else age[at], there)
            out = checkpoint(self._block, *arguments, use_reentrant=False) if again else self._block(*arguments)
            rows.append(at[there])
            found.append(out[there])
        if not rows:
            return torch.zeros_like(v)
        return torch.cat(found).index_select(0, torch.argsort(torch.cat(rows)))

    def _block(self, v: Tensor, q: Tensor, k: Tensor, age: Tensor | None, there: Tensor) -> Tensor:
        """v, q, k (b, n, W), age and there (b, n) -> (b, n, W); rows that are not there are of no meaning."""
        v, q, k = (t.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2) for t in (v, q, k))
        n = there.size(1)
        place = torch.arange(n, device=v.device)
        distance = place.unsqueeze(1) - place
        seconds = None if age is None else age.unsqueeze(1) - age.unsqueeze(2)
        scores = q @ k.transpose(2, 3) + self.bias(distance, None).permute(2, 0, 1)
        if seconds is not None and self.bias.time is not None:
            scores = scores + F.embedding(time_bucket(seconds), self.bias.time).permute(0, 3, 1, 2)
        seen = (distance >= 0) & there.unsqueeze(1)
        return ((self._weights(scores) * seen.unsqueeze(1)) @ v).transpose(1, 2).flatten(2)

    def _by_pairs(self, v: Tensor, q: Tensor, k: Tensor, s: SequenceBatch, place: Tensor) -> Tensor:
        """Without a loop whose length depends on the data: what is exported."""
        count = place + 1
        one = torch.repeat_interleave(count)
        distance = torch.arange(one.size(0), device=v.device) - (torch.cumsum(count, 0) - count).index_select(0, one)
        other = one - distance
        age = s.numbers.get("age")
        seconds = None if age is None else age.index_select(0, other) - age.index_select(0, one)
        scores = self._heads(q.index_select(0, one) * k.index_select(0, other)).sum(2) + self.bias(distance, seconds)
        parts = (self._weights(scores).unsqueeze(2) * self._heads(v.index_select(0, other))).flatten(1)
        return torch.zeros_like(v).index_add(0, one, parts)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.heads, self.head_dim))

    def _weights(self, scores: Tensor) -> Tensor:
        return F.silu(scores) / self.positions


class HSTU(nn.Module):
    """The target's state after `layers` layers over its history, (B, W); their cost is that of real behaviours.

    The last layer computes the target's row alone, so one layer costs N; each further one the pairs of behaviours
    within a history. With a similarity to the target given, SA-TA fuses it into the last layer's scores.
    """

    def __init__(self, item_dim: int, side_dim: int, config: SequenceModel) -> None:
        super().__init__()
        self.width = config.heads * config.head_dim
        self.item = nn.Linear(item_dim, self.width)
        self.side = nn.Linear(side_dim, self.width, bias=False) if side_dim else None
        self.layers = nn.ModuleList(HSTULayer(config) for _ in range(config.layers))
        self.fusion = SimilarityFusion() if config.similarity_attention else None

    def forward(self, b: Behaviours, similarity: Tensor | None = None) -> Tensor:
        """similarity (N,) to the target, for SA-TA -> (B, W)."""
        s = b.sequence
        x = self.item(b.items_UD).index_select(0, s.item)
        if self.side is not None:
            widths = [side.rows_SE.size(1) for side in b.sides]
            for side, w in zip(b.sides, self.side.weight.split(widths, 1), strict=True):
                x = x + (side.rows_SE @ w.t()).index_select(0, side.index)
        target = self.item(b.query_BD)
        starts = torch.cumsum(s.lengths, 0) - s.lengths
        place = torch.arange(s.row.size(0), device=x.device) - starts.index_select(0, s.row)
        last = len(self.layers) - 1
        by_pairs = torch.compiler.is_exporting()
        blocks = None if by_pairs or not last else list(_blocks(s.lengths, self.layers[0].heads))  # pyright: ignore
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, HSTULayer)
            parts = layer.split(x)
            fuse = self.fusion if number == last else None
            target = layer.target(target, parts, s, place, fuse, similarity)
            if number < last:
                x = layer.behaviours(x, parts, s, place, blocks)
        return target


def time_bucket(seconds: Tensor) -> Tensor:
    """Power of two of the seconds between two behaviours, int64 below TIMES."""
    return torch.log2(seconds.clamp(min=0) + 1).long().clamp(max=TIMES - 1)


def _cells(lengths: Tensor, heads: int) -> int:
    return int((lengths**2).sum()) * heads


def _blocks(lengths: Tensor, heads: int) -> Iterator[Tensor]:
    """Samples (b,) of like length, none empty, in blocks of at most CELLS cells (or one sample)."""
    order = torch.argsort(lengths, stable=True)
    sizes = lengths.index_select(0, order).tolist()
    start = next((i for i, size in enumerate(sizes) if size), len(sizes))
    for stop in range(start, len(sizes)):
        if (stop + 1 - start) * sizes[stop] ** 2 * heads > CELLS and stop > start:
            yield order[start:stop]
            start = stop
    if start < len(sizes):
        yield order[start:]
