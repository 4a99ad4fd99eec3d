"""The slow copy of an encoder that makes a queue's vectors (MoCo, He et al., arXiv 1911.05722).

    after each step   w' <- m w' + (1 - m) w

Queued vectors have no gradient, so a loss that sets them against a positive that has one can be lowered by moving every
vector of today the same way, which tells no item from another: all cosines end alike. Therefore a query's positive is
compared with queued vectors as this copy makes it, and the copy is slow, so that vectors of other steps are like it.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from moon_encoder.encoder import Encoder, Inputs
from moon_encoder.grad_cache import in_parts


class Momentum(nn.Module):
    """The copy: trained weights only. What is frozen, and all buffers, are the encoder's own.

    Example:
        slow = Momentum(encoder, 0.99)
        keys = slow(encoder, items)   # (n, D), no gradient
        optimizer.step()
        slow.follow(encoder)
    """

    def __init__(self, encoder: Encoder, momentum: float) -> None:
        """momentum: m, in [0, 1)."""
        super().__init__()
        self.momentum = momentum
        weights = _trained(encoder)
        self.names = list(weights)
        self.weights = nn.ParameterList(nn.Parameter(w.detach().clone(), requires_grad=False) for w in weights.values())

    @torch.no_grad()
    def forward(self, encoder: Encoder, inputs: Inputs, rows: int | None = None) -> Tensor:
        """Vectors (n, D) of a batch; rows: contents in memory at once, None: all."""
        weights = dict(zip(self.names, self.weights, strict=True))
        return torch.cat([functional_call(encoder, weights, (part,)) for part in in_parts(inputs, rows)])

    @torch.no_grad()
    def follow(self, encoder: Encoder) -> None:
        """Take in the encoder's weights after a step."""
        now = _trained(encoder)
        for name, weight in zip(self.names, self.weights, strict=True):
            weight.lerp_(now[name], 1 - self.momentum)


def _trained(encoder: Encoder) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
