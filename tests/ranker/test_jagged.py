"""Segment operations against loops."""

import torch

from ranker.jagged import (
    gather,
    gathered_sum,
    masked_segment_softmax,
    segment_mean,
    segment_ranks,
    segment_softmax,
    segment_sum,
    segment_top,
)

LENGTHS = torch.tensor([3, 0, 1, 5, 0])
ROW = torch.repeat_interleave(torch.arange(5), LENGTHS)


def split(values: torch.Tensor) -> list[torch.Tensor]:
    return list(values.split(LENGTHS.tolist()))


def test_sum_and_mean():
    values = torch.randn(9, 4, dtype=torch.float64)
    sums = torch.stack([part.sum(0) for part in split(values)])
    means = torch.stack([part.mean(0) if len(part) else torch.zeros(4, dtype=torch.float64) for part in split(values)])
    assert torch.allclose(segment_sum(values, LENGTHS), sums)
    assert torch.allclose(segment_mean(values, LENGTHS), means)


def test_softmax_of_columns_and_of_huge_scores():
    scores = torch.randn(9, 2, dtype=torch.float64) * 5 + 900
    expected = torch.cat([part.softmax(0) for part in split(scores)])
    assert torch.allclose(segment_softmax(scores, ROW, LENGTHS), expected)
    assert torch.allclose(segment_softmax(scores[:, 0], ROW, LENGTHS), expected[:, 0])


def test_gathered_sum_and_its_gradients():
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(9, dtype=torch.float64, requires_grad=True)
    index = torch.randint(6, (9,))
    found = gathered_sum(table, index, LENGTHS, weights)
    expected = torch.stack([part.sum(0) for part in split(weights.unsqueeze(1) * table[index])])
    assert torch.allclose(found, expected)
    up = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad((x * up).sum(), (table, weights)) for x in (found, expected)), strict=True):
        assert torch.allclose(a, b)
    assert torch.allclose(gathered_sum(table, index, LENGTHS), torch.stack([p.sum(0) for p in split(table[index])]))


def test_gather_and_its_gradient():
    for index in (torch.tensor([4, 0, 4, 4, 1, 0]), torch.tensor([], dtype=torch.int64)):
        table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        found = gather(table, index)
        assert torch.equal(found, table[index])
        up = torch.randn_like(found)
        for_table = [torch.autograd.grad((x * up).sum(), table)[0] for x in (found, table[index])]
        assert torch.allclose(*for_table) and not for_table[0][[2, 3, 5]].any()


def test_masked_softmax_leaves_the_unknown_out():
    scores = torch.randn(9, dtype=torch.float64) * 50
    known = torch.tensor([True, False, True, False, True, True, False, True, True])
    found = masked_segment_softmax(scores, known, ROW, LENGTHS)
    for part, mask, out in zip(split(scores), split(known), split(found), strict=True):
        assert torch.allclose(out[mask], torch.softmax(part[mask], 0)) and not out[~mask].any()


def test_ranks_and_the_best_of_each_segment():
    scores = torch.tensor([0.5, float("-inf"), 0.5, 9.0, 1.0, 3.0, 2.0, 3.0, -1.0])
    ranks = segment_ranks(scores, ROW, LENGTHS)
    assert ranks.tolist() == [1, 2, 0, 0, 3, 1, 2, 0, 4]
    top = segment_top(scores, ROW, LENGTHS, 2, -7.0)
    assert top.tolist() == [[0.5, 0.5], [-7, -7], [9, -7], [3, 3], [-7, -7]]
    nothing = torch.zeros(0, dtype=torch.int64)
    none = torch.zeros(3, dtype=torch.int64)
    assert segment_ranks(torch.zeros(0), nothing, none).shape == (0,)
    assert segment_top(torch.zeros(0), nothing, none, 2, -7.0).tolist() == [[-7, -7]] * 3
