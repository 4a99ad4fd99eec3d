"""Content interest on any device, block by block: at most BLOCK_PAIRS vectors are gathered at a time.

The mathematics that `ranker.kernels.triton_passes` repeats; names and shapes as in `ranker.kernels.content_interest`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ranker.simtier import LEVELS, TIERS

BLOCK_PAIRS = 8192
EPS = 1e-12  # a vector shorter than this counts as this long, as in torch.nn.functional.normalize


class Given(NamedTuple):
    """The arguments: codes (R, M), scale (R,) or None, present (R,), ids (N,), lengths (B,), row (N,), query (B, M),
    query_present (B,), log_temperature (), threshold () or None."""

    codes: Tensor
    scale: Tensor | None
    present: Tensor
    ids: Tensor
    lengths: Tensor
    row: Tensor
    query: Tensor
    query_present: Tensor
    log_temperature: Tensor
    threshold: Tensor | None

    def detached(self) -> "Given":
        """The same without their graph."""
        return Given._make(value if value is None else value.detach() for value in self)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: float64 stays, everything else is float32."""
        return torch.float64 if self.codes.dtype == torch.float64 else torch.float32

    def known(self) -> Tensor:
        """Whether a behaviour can be compared, (N,) bool."""
        return self.present.index_select(0, self.ids) & self.query_present.index_select(0, self.row)


class Forward(NamedTuple):
    """cosines (N,), weights (N,), counts (B, K), interest (B, M)."""

    cosines: Tensor
    weights: Tensor
    counts: Tensor
    interest: Tensor


class Upstream(NamedTuple):
    """Gradients of cosines (N,), weights (N,) and interest (B, M)."""

    cosines: Tensor
    weights: Tensor
    interest: Tensor


class Backward(NamedTuple):
    """Gradients of codes (R, M) or None, query (B, M), log_temperature and threshold in parts (any shape) to add."""

    codes: Tensor | None
    query: Tensor
    log_temperature: Tensor
    threshold: Tensor


def forward(given: Given) -> Forward:
    """The forward pass."""
    n, b, m = len(given.ids), len(given.lengths), given.codes.size(1)
    like = {"dtype": given.dtype, "device": given.codes.device}
    cosines, weights = torch.zeros(n, **like), torch.zeros(n, **like)
    interest, counts = torch.zeros(b, m, **like), torch.zeros(b * TIERS, **like)
    known = given.known()
    for samples, pairs in _blocks(given.lengths):
        rows, inverse = _vectors(given, pairs)
        unit, _ = _unit(given, samples)
        local = given.row[pairs] - samples.start
        s = torch.where(known[pairs], (rows * unit.index_select(0, local)).sum(1) * inverse, 0)
        w = _weights(given, s, known[pairs], local, samples.stop - samples.start)
        cosines[pairs], weights[pairs] = s, w
        interest[samples].index_add_(0, local, rows.mul_(w.unsqueeze(1)))
    tier = torch.floor((cosines.double() + 1 + 1e-6) * (LEVELS / 2)).long().clamp(0, LEVELS)
    tier = torch.where(known, tier, TIERS - 1)
    counts.index_add_(0, given.row * TIERS + tier, torch.ones(n, **like))
    return Forward(cosines, weights, counts.view(b, TIERS), interest)


def backward(given: Given, done: Forward, upstream: Upstream, wants_codes: bool) -> Backward:
    """The backward pass."""
    query = torch.zeros_like(done.interest)
    codes = torch.zeros_like(given.codes, dtype=given.dtype) if wants_codes else None
    to_u, u = torch.zeros_like(done.cosines), exponents(given, done.cosines)
    known, mean = given.known(), carried(given, done, upstream)
    rate = torch.exp(-given.log_temperature.to(given.dtype))
    for samples, pairs in _blocks(given.lengths):
        rows, inverse = _vectors(given, pairs)
        unit, length = _unit(given, samples)
        local = given.row[pairs] - samples.start
        pulled, unit_N = (t.index_select(0, local) for t in (upstream.interest[samples], unit))
        w, s = done.weights[pairs], done.cosines[pairs]
        to_w = (rows * pulled).sum(1) + upstream.weights[pairs]
        slope = w * (1 - w) * to_w if mean is None else w * (to_w - mean[samples].index_select(0, local))
        to_u[pairs] = slope
        to_s = torch.where(known[pairs], slope * rate + upstream.cosines[pairs], 0)
        if codes is not None:
            aside = (to_s * inverse).unsqueeze(1) * (unit_N - rows * (s * inverse).unsqueeze(1))
            codes.index_add_(0, given.ids[pairs], aside.add_(pulled.mul_(w.unsqueeze(1))))
        turned = torch.zeros_like(unit).index_add_(0, local, rows.mul_((to_s * inverse).unsqueeze(1)))
        query[samples] = (turned - (turned * unit).sum(1, keepdim=True) * unit) / length
    return Backward(codes, query, -to_u * u, -to_u * rate)


def exponents(given: Given, cosines: Tensor) -> Tensor:
    """`(s - c) / t`, (N,)."""
    shifted = cosines if given.threshold is None else cosines - given.threshold
    return shifted * torch.exp(-given.log_temperature.to(given.dtype))


def carried(given: Given, done: Forward, upstream: Upstream) -> Tensor | None:
    """Of softmax weights: `sum_n w_n dw_n` of every sample, (B,), from sums that exist; None for sigmoid weights."""
    if given.threshold is not None:
        return None
    own = torch.zeros_like(done.interest[:, 0]).index_add_(0, given.row, done.weights * upstream.weights)
    return own + (upstream.interest * done.interest).sum(1)


def _blocks(lengths: Tensor) -> Iterator[tuple[slice, slice]]:
    """(samples, pairs) of consecutive samples with about BLOCK_PAIRS behaviours together."""
    ends = torch.cumsum(lengths, 0).tolist()
    first, begin = 0, 0
    for sample, end in enumerate(ends):
        if end - begin >= BLOCK_PAIRS or sample == len(ends) - 1:
            yield slice(first, sample + 1), slice(begin, end)
            first, begin = sample + 1, end


def _vectors(given: Given, pairs: slice) -> tuple[Tensor, Tensor]:
    """Vectors (n, M) of the pairs and one over their lengths (n,)."""
    ids = given.ids[pairs]
    rows = given.codes.index_select(0, ids).to(given.dtype)
    if given.scale is not None:
        rows *= given.scale.index_select(0, ids).unsqueeze(1)
    return rows, 1 / torch.linalg.vector_norm(rows, dim=1).clamp(min=EPS)


def _unit(given: Given, samples: slice) -> tuple[Tensor, Tensor]:
    """Target vectors of length 1 (b, M), and their lengths (b, 1)."""
    query = given.query[samples].to(given.dtype)
    length = torch.linalg.vector_norm(query, dim=1, keepdim=True).clamp(min=EPS)
    return query / length, length


def _weights(given: Given, s: Tensor, known: Tensor, local: Tensor, samples: int) -> Tensor:
    u = exponents(given, s)
    if given.threshold is not None:
        return torch.sigmoid(u) * known
    u = u.masked_fill(~known, torch.finfo(u.dtype).min / 4)
    top = u.new_full((samples,), torch.finfo(u.dtype).min / 4).scatter_reduce(0, local, u, "amax")
    raised = torch.exp(u - top.index_select(0, local)) * known
    total = torch.zeros_like(top).index_add_(0, local, raised)
    return raised / total.clamp(min=torch.finfo(u.dtype).tiny).index_select(0, local)
