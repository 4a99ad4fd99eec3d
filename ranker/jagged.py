"""Segment operations on jagged tensors: N rows that belong to B samples, `lengths` (B,) of them each, in order."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SUM = 0  # torch's number of embedding_bag's mode


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums (B, D) of consecutive rows of values (N, D); an empty segment gives 0."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def segment_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Means (B, D) of consecutive rows of values (N, D); an empty segment gives 0."""
    return segment_sum(values, lengths) / lengths.clamp(min=1).unsqueeze(1)


def segment_softmax(scores: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Softmax (N,) or (N, H) of scores within each segment; row (N,) is the segment of each score."""
    given, scores = scores.dtype, scores.to(summed_in(scores.dtype))
    shape = (lengths.size(0), *scores.shape[1:])  # not len(): it would fix the size in an exported program
    index = row if scores.dim() == 1 else row.unsqueeze(1).expand_as(scores)
    top = torch.full(shape, float("-inf"), dtype=scores.dtype, device=scores.device)
    top = top.scatter_reduce(0, index, scores.detach(), "amax")
    raised = torch.exp(scores - top.index_select(0, row))
    total = torch.zeros(shape, dtype=scores.dtype, device=scores.device).index_add(0, row, raised)
    return (raised / total.index_select(0, row)).to(given)


def gathered_sum(table: Tensor, index: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
    """`sum_n weights[n] * table[index[n]]` per segment, (B, D), without writing the (N, D) rows.

    table (U, D); index (N,); weights (N,) or None for 1; an empty segment gives 0.
    """
    if weights is not None:
        weights = weights.to(table.dtype)
    if torch.compiler.is_exporting():
        return bags(table, index, lengths, weights)
    return _GatheredSum.apply(table, index, lengths, weights)  # pyright: ignore[reportReturnType]


def gather(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, (N, D), of few rows many times: its backward pass sums them in order, not one after another."""
    if torch.compiler.is_exporting():
        return table.index_select(0, index)
    return _Gather.apply(table, index)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = table.size(0)
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        order, uses = grouped(index, ctx.rows)
        return bags(grads[0].contiguous(), order, uses, None), None


class _GatheredSum(torch.autograd.Function):
    """Of the table's gradient, each row is again a weighted sum of gathered rows: of the segments that use it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, lengths: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(table, index, lengths, weights)
        return bags(table, index, lengths, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        table, index, lengths, weights = ctx.saved_tensors
        grad, to_table, to_weights = grads[0].contiguous(), None, None
        row = torch.repeat_interleave(
            torch.arange(lengths.size(0), device=index.device), lengths, output_size=len(index)
        )
        if ctx.needs_input_grad[0]:
            order, uses = grouped(index, table.size(0))
            to_table = bags(grad, row[order], uses, None if weights is None else weights[order])
        if ctx.needs_input_grad[3]:
            offsets = torch.cumsum(lengths, 0) - lengths
            to_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad, table, index, offsets, row, SUM, -1
            )
        return to_table, None, None, to_weights


def bags(table: Tensor, index: Tensor, lengths: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sums (B, D) of table rows (U, D) by index (N,), `lengths` (B,) of them each."""
    offsets = torch.cumsum(lengths, 0) - lengths
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


def grouped(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The places of index (N,) in order of the row they name, and how often each of `rows` is named."""
    return torch.argsort(index.int(), stable=True), torch.bincount(index, minlength=rows)


def masked_segment_softmax(scores: Tensor, known: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Softmax (N,) over the known (N,) members of each segment; 0 elsewhere, and where a segment has none."""
    given, scores = scores.dtype, scores.to(summed_in(scores.dtype))
    lowest = torch.finfo(scores.dtype).min / 4
    scores = scores.masked_fill(~known, lowest)
    top = torch.full((lengths.size(0),), lowest, dtype=scores.dtype, device=scores.device)
    top = top.scatter_reduce(0, row, scores.detach(), "amax")
    raised = torch.exp(scores - top.index_select(0, row)) * known
    total = torch.zeros_like(top).index_add(0, row, raised)
    return (raised / total.clamp(min=torch.finfo(scores.dtype).tiny).index_select(0, row)).to(given)


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """What many numbers of `dtype` are added up in: bfloat16 would lose them one by one."""
    return torch.promote_types(dtype, torch.float32)


def segment_ranks(scores: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Rank (N,) int64 of each score in its segment, 0 for the largest; of equal ones the later comes first."""
    order = torch.argsort(_falling(scores, row).flip(0), stable=True)
    order = row.size(0) - 1 - order
    starts = torch.cumsum(lengths, 0) - lengths
    places = torch.arange(row.size(0), device=row.device) - starts.index_select(0, row)
    return torch.empty_like(row).scatter(0, order, places)


def segment_top(values: Tensor, row: Tensor, lengths: Tensor, k: int, fill: float) -> Tensor:
    """The k largest values of each segment, largest first, (B, k); `fill` where there are fewer."""
    last = row.size(0)  # the place of `fill`, behind all values
    order = torch.argsort(_falling(values, row))
    order = torch.cat([order, order.new_full((1,), last)])
    values = torch.cat([values, values.new_full((1,), fill)])
    rank = torch.arange(k, device=row.device)
    place = (torch.cumsum(lengths, 0) - lengths).unsqueeze(1) + rank
    place = torch.where(rank < lengths.unsqueeze(1), place, last).flatten()
    return values.index_select(0, order.index_select(0, place)).view(-1, k)


def _falling(scores: Tensor, row: Tensor) -> Tensor:
    """Whole numbers (N,) that rise with the segment and, in a segment, as the scores fall: one sort does for both."""
    bits = (scores.detach().float() + 0.0).view(torch.int32)  # + 0: the zeros of both signs are equal
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # whole numbers in the order of the scores
    return row * (1 << 32) - rising
