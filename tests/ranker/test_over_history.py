"""Values over shared histories (rectangles) against the same values one sample after another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.batch import SequenceBatch
from ranker.over_history import largest, shared_histories


def samples(behaviours: list[int], candidates: list[int]) -> tuple[SequenceBatch, SequenceBatch]:
    """Requests with so many behaviours and candidates: not told, and told, that candidates share a history."""
    context = np.repeat(np.arange(len(candidates)), candidates)
    lengths = np.array(behaviours, dtype=np.int64)[context]
    row = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    jagged = SequenceBatch(torch.from_numpy(lengths), row, torch.zeros_like(row))
    return jagged, replace(jagged, shared=shared_histories(lengths, context))


@pytest.mark.parametrize(
    ("behaviours", "candidates"), [([5], [3]), ([0], [2]), ([9, 0, 2], [1, 4, 2]), ([40, 3], [2, 2]), ([], [])]
)
def test_the_largest_values_in_order_equal_ones_as_often_as_they_are(behaviours, candidates):
    jagged, shared = samples(behaviours, candidates)
    values = torch.randint(-8, 9, (len(jagged.row),), generator=torch.Generator().manual_seed(0)) / 8
    values[::3] = 1e-7
    found = largest(values, shared, 6, -2.0)
    assert found.dtype == values.dtype and found.shape == (sum(candidates), 6)
    assert torch.allclose(found, largest(values, jagged, 6, -2.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("behaviours", "candidates"), [([4], [3]), ([4, 4], [3, 3]), ([4, 2], [3, 1]), ([0, 3], [2, 2])]
)
def test_every_behaviour_of_every_sample_has_its_place(behaviours, candidates):
    jagged, told = samples(behaviours, candidates)
    shared, starts = told.shared, torch.cumsum(jagged.lengths, 0) - jagged.lengths
    assert shared is not None
    (_, most), longest = shared.samples.shape, shared.behaviours.size(1)
    assert torch.equal(shared.samples.flatten()[shared.place], torch.arange(len(jagged.lengths)))
    place, step = shared.pair // longest, shared.pair % longest
    assert torch.equal(place, shared.place[jagged.row])
    first = starts[shared.samples[place // most, 0]]
    assert torch.equal(shared.behaviours[place // most, step] - first, torch.arange(len(place)) - starts[jagged.row])
