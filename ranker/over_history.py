"""What a sample computes over its behaviours: jagged, or, in an exported program, over rectangles of shared histories.

The candidates of a request share their user's history. Where a batch says so (features.batch.Shared), its vectors are
gathered once, all samples of a history meet it in one matrix product, and softmax and the largest values go by rows.
Values (N,), one a behaviour of a sample, come in and go out either way, so mechanisms are written once. Padding takes
part in products and is never read from their results.

Shape legend: B samples, N behaviours, U distinct items, H histories, C samples and L behaviours of one at most.
"""

import numpy as np
import torch
from torch import Tensor

from features.batch import SequenceBatch, Shared
from ranker.jagged import gathered_sum, masked_segment_softmax, segment_softmax, segment_top

TIE = 2.0**-46  # a place adds this to its value, see _largest

Table = tuple[Tensor, Tensor]  # rows (U, D), and, (N,), which of them each behaviour has


def sums(tables: list[Table], s: SequenceBatch, weights: Tensor | None = None) -> Tensor:
    """Over each sample's behaviours, weighted sums of their rows in all tables, side by side (B, sum of D).

    weights: (N,), or as a softmax gave them, or None for 1.
    """
    if s.shared is None:
        return torch.cat([gathered_sum(rows, index, s.lengths, weights) for rows, index in tables], 1)
    weights = tables[0][0].new_ones(()).expand_as(s.row) if weights is None else weights.to(tables[0][0].dtype)
    weights = weights if weights.dim() == 3 else _spread(weights, s.shared)
    return torch.bmm(weights, of_behaviours(tables, s.shared)).flatten(0, 1).index_select(0, s.shared.place)


def softmax(scores: Tensor, s: SequenceBatch) -> Tensor:
    """Softmax of scores (N,) or (N, heads) over each sample's behaviours, in that shape; of (N,) where histories are
    shared (H, C, L), 0 in the padding."""
    if s.shared is None or scores.dim() == 2:
        return segment_softmax(scores, s.row, s.lengths)
    return _softmax(_spread(scores, s.shared, _lowest(scores)))


def masked_softmax(scores: Tensor, known: Tensor, s: SequenceBatch) -> Tensor:
    """The same of scores (N,), over the known (N,) behaviours; 0 elsewhere, and where a sample has none."""
    if s.shared is None:
        return masked_segment_softmax(scores, known, s.row, s.lengths)
    lowest = _lowest(scores)
    return _softmax(_spread(torch.where(known, scores, lowest), s.shared, lowest))


def largest(values: Tensor, s: SequenceBatch, k: int, fill: float) -> Tensor:
    """The k largest values of each sample, largest first, (B, k); `fill` where it has fewer."""
    if s.shared is None:
        return segment_top(values, s.row, s.lengths, k, fill)
    spaced = _spread(values, s.shared, fill)
    return _largest(spaced, k, fill).to(values.dtype).flatten(0, 1).index_select(0, s.shared.place)


def shared_histories(lengths: np.ndarray, context: np.ndarray | None) -> Shared:
    """lengths (B,) of the samples' histories, context (B,) as in features.batch.Batch -> how they share them."""
    rows, total = np.arange(len(lengths)), int(lengths.sum())
    context = rows if context is None else context
    samples_H = np.bincount(context)
    most, longest = (int(sizes.max(initial=0)) for sizes in (samples_H, lengths))
    pair = np.arange(total)
    if total and total == len(samples_H) * most * longest:  # all places are taken, in order
        arrays = rows.reshape(-1, most), rows, pair.reshape(-1, most, longest)[:, 0], pair
    else:
        first_H, starts = np.cumsum(samples_H) - samples_H, np.cumsum(lengths) - lengths
        place = context * most + rows - first_H[context]
        samples, behaviours = _places(first_H, samples_H, most), _places(starts[first_H], lengths[first_H], longest)
        arrays = samples, place, behaviours, pair + np.repeat(place * longest - starts, lengths)
    return Shared(*(torch.from_numpy(array) for array in arrays))


def of_samples(rows_BD: Tensor, shared: Shared) -> Tensor:
    """Rows (B, D) of the samples -> (H, C, D)."""
    return rows_BD.index_select(0, shared.samples.flatten()).view(*shared.samples.shape, rows_BD.size(1))


def of_behaviours(tables: list[Table], shared: Shared) -> Tensor:
    """The behaviours' rows in all tables, side by side (H, L, sum of D)."""
    at = shared.behaviours.flatten()
    found = torch.cat([rows.index_select(0, index.index_select(0, at)) for rows, index in tables], 1)
    return found.view(*shared.behaviours.shape, found.size(1))


def of_pairs(values: Tensor, shared: Shared) -> Tensor:
    """Values of all places, H * C * L of them in any shape -> (N,)."""
    return values.flatten().index_select(0, shared.pair)


def _spread(values: Tensor, shared: Shared, fill: float = 0.0) -> Tensor:
    """(N,) -> (H, C, L), `fill` in the padding."""
    (h, c), longest = shared.samples.shape, shared.behaviours.size(1)
    return values.new_full((h * c * longest,), fill).scatter(0, shared.pair, values).view(h, c, longest)


def _largest(spaced: Tensor, k: int, fill: float) -> Tensor:
    """Of (H, C, L), all at least `fill`, the k largest, largest first (H, C, k) float64; `fill` where L is less.

    k times the largest below the one before, each in one pass over all samples side by side: a sort or torch.topk of
    so short rows spends its time on guessing wrong. Equal values are told apart by their place: TIE is nothing in
    float32, and float64 has room for both.
    """
    told = spaced.double() + torch.arange(spaced.size(2), device=spaced.device) * TIE
    ends = told.new_full((told.size(0), 1, told.size(1)), fill)
    told = torch.cat([told.transpose(1, 2), ends], 1)
    found = [told.amax(1)]
    for _ in range(k - 1):
        found.append(torch.where(told < found[-1].unsqueeze(1), told, fill).amax(1))
    return torch.stack(found, 2)


def _places(first: np.ndarray, sizes: np.ndarray, most: int) -> np.ndarray:
    """(H, most): first, first + 1, ... as many as each one's size, then 0."""
    step = np.arange(most)
    return np.where(step < sizes[:, None], first[:, None] + step, 0)


def _softmax(spaced: Tensor) -> Tensor:
    """Softmax of (H, C, L) over the last axis, 0 for what is `_lowest`."""
    return torch.softmax(spaced, 2) * (spaced > _lowest(spaced))


def _lowest(scores: Tensor) -> float:
    """A finite number far below any score: softmax of nothing but infinities is none."""
    return torch.finfo(scores.dtype).min / 4
