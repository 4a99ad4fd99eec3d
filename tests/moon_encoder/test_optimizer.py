"""The schedule, the groups, and clipping, against plain torch."""

import itertools
import math

import pytest
import torch
from torch import nn

from moon_encoder.optimizer import Optimizer, OptimizerConfig


def test_the_schedule_rises_and_falls():
    how = OptimizerConfig(warmup_steps=4, decay="cosine", floor=0.1)
    factors = [how.factor(step, 21) for step in range(21)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and factors[-1] == pytest.approx(0.1)
    assert factors[12] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))
    linear = OptimizerConfig(decay="linear")
    assert [linear.factor(step, 5) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert OptimizerConfig(decay="none", warmup_steps=2).factor(99, 5) == 1


def test_every_weight_moves_as_its_group_says():
    torch.manual_seed(0)
    model = nn.ModuleDict({"tower": nn.Linear(4, 4), "head": nn.Linear(4, 2), "frozen": nn.Linear(4, 2)})
    model["frozen"].requires_grad_(False)
    how = OptimizerConfig(lr=0.1, rates={"tower": 0.1, "tower.bias": 0.0}, decay="none", clip_norm=None)
    optimizer = Optimizer(how, [model], 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    values = torch.randn(5, 4)
    (model["head"](model["tower"](values)) + model["frozen"](values)).square().sum().backward()
    rate, norm = optimizer.step(0)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}
    assert rate == 0.1 and norm > 0
    assert moved["tower.bias"] == 0 and moved["frozen.weight"] == 0 and model["head"].weight.grad is None
    assert moved["tower.weight"] == pytest.approx(0.01, rel=0.02)  # Adam's first step is the rate, and a little decay
    assert moved["head.weight"] == pytest.approx(0.1, rel=0.02)
    assert moved["head.bias"] == pytest.approx(0.1, rel=1e-4)  # vectors are not decayed


def test_the_norm_is_clipped_and_a_gradient_that_is_no_number_changes_nothing():
    layer = nn.Linear(2, 1, bias=False)
    optimizer = Optimizer(OptimizerConfig(lr=0.1, clip_norm=1.0, decay="none"), [layer], 2)
    layer.weight.grad = torch.tensor([[30.0, 40.0]])
    assert optimizer.step(0)[1] == pytest.approx(50)
    state = optimizer.inner.state[layer.weight]["exp_avg"]
    torch.testing.assert_close(state, torch.tensor([[0.06, 0.08]]))
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[float("nan"), 1.0]])
    assert math.isnan(optimizer.step(1)[1]) and torch.equal(layer.weight, before)
