"""Segment operations against loops."""

import torch

from ranker.jagged import gathered_sum, segment_mean, segment_softmax, segment_sum

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
