"""Segment operations on jagged tensors: N rows that belong to B samples, `lengths` (B,) of them each, in order."""

import torch
import torch.nn.functional as F
from torch import Tensor


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums (B, D) of consecutive rows of values (N, D); an empty segment gives 0."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def segment_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Means (B, D) of consecutive rows of values (N, D); an empty segment gives 0."""
    return segment_sum(values, lengths) / lengths.clamp(min=1).unsqueeze(1)


def segment_softmax(scores: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Softmax (N,) or (N, H) of scores within each segment; row (N,) is the segment of each score."""
    shape = (lengths.size(0), *scores.shape[1:])  # not len(): it would fix the size in an exported program
    index = row if scores.dim() == 1 else row.unsqueeze(1).expand_as(scores)
    top = torch.full(shape, float("-inf"), dtype=scores.dtype, device=scores.device)
    top = top.scatter_reduce(0, index, scores.detach(), "amax")
    raised = torch.exp(scores - top.index_select(0, row))
    total = torch.zeros(shape, dtype=scores.dtype, device=scores.device).index_add(0, row, raised)
    return raised / total.index_select(0, row)


def gathered_sum(table: Tensor, index: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
    """`sum_n weights[n] * table[index[n]]` per segment, (B, D), without writing the (N, D) rows.

    table (U, D); index (N,); weights (N,) or None for 1; an empty segment gives 0.
    """
    offsets = torch.cumsum(lengths, 0) - lengths
    if weights is not None:
        weights = weights.to(table.dtype)
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


def masked_segment_softmax(scores: Tensor, known: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Softmax (N,) over the known (N,) members of each segment; 0 elsewhere, and where a segment has none."""
    lowest = torch.finfo(scores.dtype).min / 4
    scores = scores.masked_fill(~known, lowest)
    top = torch.full((lengths.size(0),), lowest, dtype=scores.dtype, device=scores.device)
    top = top.scatter_reduce(0, row, scores.detach(), "amax")
    raised = torch.exp(scores - top.index_select(0, row)) * known
    total = torch.zeros_like(top).index_add(0, row, raised)
    return raised / total.clamp(min=torch.finfo(scores.dtype).tiny).index_select(0, row)


def segment_ranks(scores: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Rank (N,) int64 of each score in its segment, 0 for the largest; of equal ones the later comes first."""
    bits = (scores.detach().float() + 0.0).view(torch.int32)  # + 0: the zeros of both signs are equal
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # whole numbers in the order of the scores
    order = torch.argsort((row * (1 << 32) - rising).flip(0), stable=True)  # one sort, by segment and then by score
    order = row.size(0) - 1 - order
    starts = torch.cumsum(lengths, 0) - lengths
    places = torch.arange(row.size(0), device=row.device) - starts.index_select(0, row)
    return torch.empty_like(row).scatter(0, order, places)


def segment_top(values: Tensor, ranks: Tensor, row: Tensor, samples: int, k: int, fill: float) -> Tensor:
    """The k best ranked values of each segment, best first, (samples, k); `fill` where there are fewer."""
    last = samples * k  # what is not wanted goes there, and away
    place = torch.where(ranks < k, row * k + ranks, last)
    return values.new_full((last + 1,), fill).scatter(0, place, values)[:last].view(samples, k)
