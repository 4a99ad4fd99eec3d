"""The heart of the method in one pass over the vectors: cosines, their histogram and the weighted sum of the vectors.

For every sample b with target vector q and behaviours n (rows r_n of a table, found by jagged ids):

    s_n = cos(r_n, q)                                    0 where either side has no vector
    w_n = softmax_n(s_n / t)  or  sigmoid((s_n - c) / t)  0 there too
    counts_k = number of n whose s_n is in tier k (ranker.simtier)
    interest = sum_n w_n r_n

(CUBE's content-interest, MOON arXiv 2511.11305; SimTier's histogram, arXiv 2407.19467.) The vectors are read once in
the forward and once in the backward pass, straight from the table, which may hold float32, float16, bfloat16 or int8
codes with a scale a row; the (N, M) rows of the behaviours, let alone (B, L, M), are never written. On CUDA this is a
Triton kernel, on a CPU a walk over blocks of samples.

Shape legend: B samples, R rows of the table, N behaviours, M vector width, K tiers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ranker.kernels import blocks


@dataclass(frozen=True)
class VectorTable:
    """codes (R, M) float32, float16, bfloat16, float64 or int8; scale (R,) float32 of int8 codes; present (R,) bool."""

    codes: Tensor
    present: Tensor
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.codes.dtype == torch.int8) != (self.scale is not None):
            raise ValueError("int8 codes need a scale a row, and nothing else has one")


@dataclass(frozen=True)
class Jagged:
    """Behaviours of B samples: ids (N,) int64 rows of the table, lengths (B,) int64, row (N,) int64 the sample."""

    ids: Tensor
    lengths: Tensor
    row: Tensor


class ContentInterest(NamedTuple):
    """cosines (N,), weights (N,), counts (B, K), interest (B, M)."""

    cosines: Tensor
    weights: Tensor
    counts: Tensor
    interest: Tensor


def content_interest(
    table: VectorTable,
    behaviours: Jagged,
    query_BM: Tensor,
    query_present_B: Tensor,
    log_temperature: Tensor,
    threshold: Tensor | None = None,
) -> ContentInterest:
    """One pass over the vectors, see the module. threshold () or None for softmax weights; log_temperature ().

    Gradients flow to floating codes, the query, the temperature and the threshold from cosines, weights and interest.
    """
    found = _ContentInterest.apply(
        table.codes,
        table.scale,
        table.present,
        behaviours.ids,
        behaviours.lengths,
        behaviours.row,
        query_BM,
        query_present_B,
        log_temperature,
        threshold,
    )
    return ContentInterest(*found)  # pyright: ignore[reportGeneralTypeIssues]


def passes(device: torch.device) -> Any:
    """The module whose `forward` and `backward` run on this device."""
    if device.type != "cuda":
        return blocks
    from ranker.kernels import triton_passes

    return triton_passes


class _ContentInterest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes, scale, present, ids, lengths, row, query, query_present, log_temperature, threshold):
        given = blocks.Given(
            codes, scale, present, ids, lengths, row, query, query_present, log_temperature, threshold
        ).detached()
        done = passes(codes.device).forward(given)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(done.counts)
        ctx.save_for_backward(*given, *done)
        return done.cosines, done.weights, done.counts, done.interest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None):
        size = len(blocks.Given._fields)
        given, done = blocks.Given(*ctx.saved_tensors[:size]), blocks.Forward(*ctx.saved_tensors[size:])
        upstream = blocks.Upstream(
            torch.zeros_like(done.cosines) if grads[0] is None else grads[0],
            torch.zeros_like(done.weights) if grads[1] is None else grads[1],
            torch.zeros_like(done.interest) if grads[3] is None else grads[3].contiguous(),
        )
        wants_codes, wants_query = ctx.needs_input_grad[0], ctx.needs_input_grad[6]
        found = passes(given.codes.device).backward(given, done, upstream, wants_codes)
        codes = found.codes.to(given.codes.dtype) if wants_codes and found.codes is not None else None
        query = found.query.to(given.query.dtype) if wants_query else None
        log_temperature = found.log_temperature.sum().to(given.log_temperature.dtype)
        threshold = None if given.threshold is None else found.threshold.sum().to(given.threshold.dtype)
        return codes, None, None, None, None, None, query, None, log_temperature, threshold
