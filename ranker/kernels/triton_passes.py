"""Content interest in Triton: one program a sample walks over its behaviours and reads every vector once a pass.

The mathematics is that of `ranker.kernels.blocks`. Softmax weights are accumulated as they come (Milakov and
Gimelshein, arXiv 1805.02867): the running sum is rescaled when a larger exponent turns up. float32 inside. Gradients
of the codes are added atomically, so their last bits depend on the order of the additions.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from ranker.kernels.blocks import EPS, Backward, Forward, Given, Upstream, carried, exponents
from ranker.simtier import LEVELS, TIERS

BLOCK_N = 32  # behaviours a step
COUNTERS = 32  # TIERS, rounded up to a power of two


def forward(given: Given) -> Forward:
    """The forward pass."""
    n, b, m = len(given.ids), len(given.lengths), given.codes.size(1)
    like = {"dtype": torch.float32, "device": given.codes.device}
    cosines, weights = torch.empty(n, **like), torch.empty(n, **like)
    counts, interest, top, total = (torch.empty(size, **like) for size in ((b, TIERS), (b, m), (b,), (b,)))
    if b:
        launch: Any = _forward[(b,)]  # its shapes by name are what the kernel is compiled for
        launch(
            *_pointers(given), cosines, counts, interest, top, total, m,
            SIGMOID=given.threshold is not None, SCALED=given.scale is not None, EPS=EPS,
            LEVELS=LEVELS, TIERS=TIERS, COUNTERS=COUNTERS, BLOCK_N=BLOCK_N, BLOCK_M=triton.next_power_of_2(m),
        )  # fmt: skip
    u = exponents(given, cosines)
    if given.threshold is not None:
        weights = torch.sigmoid(u)
    else:
        tiny = torch.finfo(torch.float32).tiny
        weights = torch.exp(u - top.index_select(0, given.row)) / total.clamp(min=tiny).index_select(0, given.row)
    return Forward(cosines, torch.where(given.known(), weights, 0), counts, interest)


def backward(given: Given, done: Forward, upstream: Upstream, wants_codes: bool) -> Backward:
    """The backward pass."""
    b, m = done.interest.shape
    mean = carried(given, done, upstream)
    query = torch.zeros_like(done.interest)
    to_u = torch.empty_like(done.cosines)
    codes = torch.zeros_like(given.codes, dtype=torch.float32) if wants_codes else None
    if b:
        launch: Any = _backward[(b,)]
        launch(
            *_pointers(given), done.cosines, done.weights, upstream.cosines.contiguous(),
            upstream.weights.contiguous(), upstream.interest.contiguous(), query if mean is None else mean, to_u,
            query, query if codes is None else codes, m,
            SIGMOID=given.threshold is not None, SCALED=given.scale is not None, CODES=codes is not None, EPS=EPS,
            BLOCK_N=BLOCK_N, BLOCK_M=triton.next_power_of_2(m),
        )  # fmt: skip
    rate = torch.exp(-given.log_temperature.float())
    return Backward(codes, query, -to_u * exponents(given, done.cosines), -to_u * rate)


def _pointers(given: Given) -> tuple[torch.Tensor, ...]:
    """The arguments that both kernels begin with."""
    ends = torch.cumsum(given.lengths, 0)
    rate = torch.exp(-given.log_temperature.float()).reshape(1)
    threshold = rate if given.threshold is None else given.threshold.float().reshape(1)
    codes, query = given.codes.contiguous(), given.query.float().contiguous()
    present, shown = given.present.to(torch.int8), given.query_present.to(torch.int8)
    scale = codes if given.scale is None else given.scale
    return codes, scale, present, given.ids, ends - given.lengths, ends, query, shown, rate, threshold


@triton.jit
def _target(query, shown, b, m, width, EPS: tl.constexpr):
    """The sample's target vector of length 1, its length, and whether it has one."""
    q = tl.load(query + b * width + m, mask=m < width, other=0.0)
    length = tl.maximum(tl.sqrt(tl.sum(q * q, 0)), EPS)
    return q / length, length, tl.load(shown + b) != 0


@triton.jit
def _rows(codes, scale, ids, present, n, inside, m, width, SCALED: tl.constexpr, EPS: tl.constexpr):
    """Vectors of a block of behaviours, one over their lengths, their places in the table, which of them exist."""
    place = tl.load(ids + n, mask=inside, other=0)
    exists = (tl.load(present + place, mask=inside, other=0) != 0) & inside
    cell = place[:, None] * width + m[None, :]
    rows = tl.load(codes + cell, mask=exists[:, None] & (m < width)[None, :], other=0).to(tl.float32)
    if SCALED:
        rows = rows * tl.load(scale + place, mask=exists, other=0.0)[:, None]
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(rows * rows, 1)), EPS)
    return rows, inverse, cell, exists


@triton.jit
def _forward(
    codes, scale, present, ids, starts, ends, query, shown, rate_of, threshold_of,
    cosines, counts, interest, tops, totals, width,
    SIGMOID: tl.constexpr, SCALED: tl.constexpr, EPS: tl.constexpr, LEVELS: tl.constexpr, TIERS: tl.constexpr,
    COUNTERS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    m, bins = tl.arange(0, BLOCK_M), tl.arange(0, COUNTERS)
    start, end = tl.load(starts + b), tl.load(ends + b)
    rate, threshold = tl.load(rate_of), tl.load(threshold_of)
    unit, _length, has_target = _target(query, shown, b, m, width, EPS)
    summed = tl.zeros([BLOCK_M], tl.float32)
    counted = tl.zeros([COUNTERS], tl.float32)
    top, total = -1e30, 0.0
    for first in range(start, end, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = n < end
        rows, inverse, _cell, exists = _rows(codes, scale, ids, present, n, inside, m, width, SCALED, EPS)
        known = exists & has_target
        s = tl.where(known, tl.sum(rows * unit[None, :], 1) * inverse, 0.0)
        tl.store(cosines + n, s, mask=inside)
        level = tl.floor((s.to(tl.float64) + 1 + 1e-6) * (LEVELS / 2)).to(tl.int32)
        tier = tl.where(known, tl.minimum(tl.maximum(level, 0), LEVELS), TIERS - 1)
        hits = (tier[:, None] == bins[None, :]) & inside[:, None]
        counted += tl.sum(tl.where(hits, 1.0, 0.0), 0)
        if SIGMOID:
            w = tl.where(known, 1.0 / (1.0 + tl.exp((threshold - s) * rate)), 0.0)
            summed += tl.sum(rows * w[:, None], 0)
        else:
            u = tl.where(known, s * rate, -1e30)
            raised = tl.maximum(top, tl.max(u, 0))
            w = tl.where(known, tl.exp(u - raised), 0.0)
            faded = tl.exp(top - raised)
            summed = summed * faded + tl.sum(rows * w[:, None], 0)
            total = total * faded + tl.sum(w, 0)
            top = raised
    if not SIGMOID:
        summed = summed / tl.maximum(total, 1e-30)
    tl.store(interest + b * width + m, summed, mask=m < width)
    tl.store(counts + b * TIERS + bins, counted, mask=bins < TIERS)
    tl.store(tops + b, top)
    tl.store(totals + b, total)


@triton.jit
def _backward(
    codes, scale, present, ids, starts, ends, query, shown, rate_of, threshold_of,
    cosines, weights, to_cosines, to_weights, to_interest, carried_of, to_exponents, to_query, to_codes, width,
    SIGMOID: tl.constexpr, SCALED: tl.constexpr, CODES: tl.constexpr, EPS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, BLOCK_M)
    start, end = tl.load(starts + b), tl.load(ends + b)
    rate = tl.load(rate_of)
    unit, length, has_target = _target(query, shown, b, m, width, EPS)
    pulled = tl.load(to_interest + b * width + m, mask=m < width, other=0.0)
    turned = tl.zeros([BLOCK_M], tl.float32)
    mean = 0.0
    if not SIGMOID:
        mean = tl.load(carried_of + b)
    for first in range(start, end, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = n < end
        rows, inverse, cell, exists = _rows(codes, scale, ids, present, n, inside, m, width, SCALED, EPS)
        known = exists & has_target
        s = tl.load(cosines + n, mask=inside, other=0.0)
        w = tl.load(weights + n, mask=inside, other=0.0)
        to_w = tl.sum(rows * pulled[None, :], 1) + tl.load(to_weights + n, mask=inside, other=0.0)
        slope = w * (1 - w) * to_w if SIGMOID else w * (to_w - mean)
        tl.store(to_exponents + n, slope, mask=inside)
        to_s = tl.where(known, slope * rate + tl.load(to_cosines + n, mask=inside, other=0.0), 0.0) * inverse
        turned += tl.sum(rows * to_s[:, None], 0)
        if CODES:
            aside = to_s[:, None] * (unit[None, :] - rows * (s * inverse)[:, None]) + w[:, None] * pulled[None, :]
            tl.atomic_add(to_codes + cell, aside, mask=exists[:, None] & (m < width)[None, :])
    along = tl.sum(turned * unit, 0)
    tl.store(to_query + b * width + m, (turned - along * unit) / length, mask=m < width)
