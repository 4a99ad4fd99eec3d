"""The cross network against its equation, the head's two structures, Dice's running statistics."""

import pytest
import torch

from ranker.activations import Dice, activation
from ranker.config import Interaction
from ranker.interaction import CrossNetwork, Head, Tower


@pytest.mark.parametrize("low_rank", [None, 3])
def test_cross_layers_equal_equation_2(low_rank):
    torch.manual_seed(0)
    cross = CrossNetwork(7, 3, low_rank).double()
    x0 = torch.randn(11, 7, dtype=torch.float64, requires_grad=True)
    x = x0
    for layer in cross.layers:
        if low_rank is None:
            matrix, bias = layer.weight, layer.bias
        else:
            matrix, bias = layer[1].weight @ layer[0].weight, layer[1].bias  # pyright: ignore
        x = torch.stack([x0[i] * (matrix @ x[i] + bias) + x[i] for i in range(11)])  # pyright: ignore
    assert torch.allclose(cross(x0), x, atol=1e-12)
    weight = torch.randn_like(x)
    ours = torch.autograd.grad((cross(x0) * weight).sum(), x0)[0]
    theirs = torch.autograd.grad((x * weight).sum(), x0)[0]
    assert torch.allclose(ours, theirs, atol=1e-10)


def test_cross_layers_pass_the_gradient_check():
    torch.manual_seed(1)
    cross = CrossNetwork(4, 2).double()
    assert torch.autograd.gradcheck(cross, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))


def test_the_head_is_parallel_cross_and_tower():
    torch.manual_seed(2)
    x = torch.randn(5, 6)
    tower = Tower(6, (8, 3), "relu", 0.0)
    plain = Head(6, tower, Interaction(kind="mlp"))  # pyright: ignore
    assert torch.equal(plain(x), plain.output(tower(x)).squeeze(1))
    crossed = Head(6, tower, Interaction(kind="dcnv2", layers=2))  # pyright: ignore
    assert crossed.output.in_features == 6 + 3
    assert torch.equal(crossed(x), crossed.output(torch.cat([crossed.cross(x), tower(x)], 1)).squeeze(1))  # pyright: ignore


def test_dice_uses_running_statistics_when_it_judges():
    torch.manual_seed(3)
    dice = Dice(3, momentum=0.5)
    x = torch.randn(200, 3) * 2 + 1
    for _ in range(30):
        dice(x)
    assert torch.allclose(dice.mean, x.mean(0), atol=1e-4) and torch.allclose(
        dice.var, x.var(0, correction=0), atol=1e-3
    )
    dice.eval()
    one = dice(x[:1])
    assert torch.allclose(one, dice(x)[:1])
    before = dice.mean.clone()
    dice.train()(x[:1])
    assert torch.equal(dice.mean, before)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "prelu", "dice"])
def test_activations_keep_the_shape(name):
    assert activation(name, 4)(torch.randn(6, 4)).shape == (6, 4)
