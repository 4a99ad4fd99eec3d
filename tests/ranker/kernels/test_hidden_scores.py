"""Scores in blocks against the plain operations: values and every gradient, in float64."""

import pytest
import torch

from ranker.kernels import hidden_scores as kernel
from ranker.kernels.hidden_scores import hidden_scores


def inputs(n: int, dtype: torch.dtype = torch.float64) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Weights and rows by name, and the indices of n pairs of 5 samples, 7 items, 3 sides."""
    g = torch.Generator().manual_seed(0)
    shapes = {"query": (5, 4), "items": (7, 4), "product": (6, 4), "output": (6,), "bias": (1,)}
    shapes |= {"of_item": (7, 6), "of_row": (5, 6), "of_side": (3, 6)}
    values = {name: torch.randn(shape, generator=g, dtype=dtype).requires_grad_() for name, shape in shapes.items()}
    row = torch.randint(5, (n,), generator=g).sort()[0]
    return values, [row, torch.randint(7, (n,), generator=g), torch.randint(3, (n,), generator=g)]


def in_blocks(v: dict[str, torch.Tensor], index: list[torch.Tensor]) -> torch.Tensor:
    row, item, side = index
    terms = [(v["of_item"], item), (v["of_row"], row), (v["of_side"], side)]
    return hidden_scores(v["query"], v["items"], row, item, v["product"], v["output"], v["bias"], terms)


def plain(v: dict[str, torch.Tensor], index: list[torch.Tensor]) -> torch.Tensor:
    row, item, side = index
    hidden = (v["query"][row] * v["items"][item]) @ v["product"].t()
    return (hidden + v["of_item"][item] + v["of_row"][row] + v["of_side"][side]).relu() @ v["output"] + v["bias"]


@pytest.mark.parametrize("n", [0, 1, 16, 100])
def test_values_and_gradients_are_those_of_the_plain_operations(n, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", 16)
    values, index = inputs(n)
    weights = torch.linspace(-1, 2, n, dtype=torch.float64)
    found = {}
    for name, scores in (("blocks", in_blocks(values, index)), ("plain", plain(values, index))):
        found[name] = [scores, *torch.autograd.grad((scores * weights).sum(), list(values.values()))]
    for ours, theirs in zip(found["blocks"], found["plain"], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert n == 0 or all(part.abs().max() > 1e-3 for part in found["plain"])


def test_the_backward_pass_can_run_twice():
    values, index = inputs(50, torch.float32)
    scores = in_blocks(values, index)
    once, again = (torch.autograd.grad(scores.sum(), list(values.values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
