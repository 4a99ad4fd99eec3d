"""The jagged operators that ONNX has no counterpart of, in operators that it has.

Each has the signature and the result of the ATen operator it stands for (as far as ranker.jagged uses that); sizes may
be zero.
"""

import torch
from torch import Tensor


def segment_of(starts: Tensor, values: int) -> Tensor:
    """Segment (values,) int64 that each of `values` consecutive rows belongs to; segment b begins at starts[b]."""
    marks = starts.new_zeros(values + 1).scatter_add(0, starts, torch.ones_like(starts))
    return torch.cumsum(marks, 0)[:-1] - 1


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor:
    """aten::segment_reduce of sums over the first axis."""
    assert reduce == "sum" and axis == 0 and indices is None and offsets is None and initial is None
    starts = torch.cumsum(lengths, 0) - lengths
    return _summed(data, segment_of(starts, data.size(0)), lengths)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """aten::_embedding_bag of sums; the three tensors that only a backward pass reads are empty."""
    assert mode == 0 and not include_last_offset and padding_idx in (-1, None)
    rows = weight.index_select(0, indices)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    total = _summed(rows, segment_of(offsets, indices.size(0)), offsets)
    return total, indices.new_zeros(0), indices.new_zeros(0), indices.new_zeros(0)


def index_add(data: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """aten::index_add over the first axis."""
    assert dim == 0 and alpha == 1
    shape = [-1] + [1] * (source.dim() - 1)
    return data.scatter_add(0, index.view(shape).expand_as(source), source)


def _summed(rows: Tensor, segment: Tensor, segments: Tensor) -> Tensor:
    """Sums of rows (N, D) by segment, one for each of `segments`."""
    zeros = rows.new_zeros(segments.size(0), *rows.shape[1:])
    return index_add(zeros, 0, segment, rows)


aten = torch.ops.aten
DECOMPOSITIONS = {
    aten.segment_reduce.default: segment_reduce,
    aten._embedding_bag.default: embedding_bag,
    aten.index_add.default: index_add,
}
