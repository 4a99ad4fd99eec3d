"""Activations by name, Dice among them."""

import torch
from torch import Tensor, nn


class Dice(nn.Module):
    """Dice (Zhou et al., DIN, arXiv 1706.06978, eq. 3-4): `p x + (1 - p) alpha x`, p = sigmoid of standardised x.

    Standardised by batch statistics over the rows in training (running ones otherwise, and where fewer than two
    rows are there); input and output (rows, width).
    """

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-8) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.momentum, self.eps = momentum, eps
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, width) -> (rows, width)."""
        mean, var = self.mean, self.var
        if self.training and len(x) > 1:
            var, mean = torch.var_mean(x, dim=0, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean.detach().to(self.mean), self.momentum)
                self.var.lerp_(var.detach().to(self.var), self.momentum)
        p = torch.sigmoid((x - mean) * torch.rsqrt(var + self.eps))
        return x * (p + self.alpha * (1 - p))


def activation(name: str, width: int) -> nn.Module:
    """The activation `name` for inputs of `width` columns."""
    return {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "prelu": nn.PReLU,
        "dice": lambda: Dice(width),
    }[name]()
