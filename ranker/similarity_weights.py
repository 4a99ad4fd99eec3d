"""W: from similarities to weights of the behaviours (CUBE leaves it open; both forms are config words)."""

import math

import torch
from torch import Tensor, nn

from features.batch import SequenceBatch
from ranker.over_history import masked_softmax
from ranker.similarity import Cosines


class SoftmaxWeights(nn.Module):
    """`softmax_b(s_b / t)` over the behaviours that can be compared; the temperature t is learned."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, found: Cosines, sequence: SequenceBatch) -> Tensor:
        """-> (N,), summing to 1 a sample; all 0 where nothing can be compared."""
        scores = found.values * torch.exp(-self.log_temperature)
        return masked_softmax(scores, found.known, sequence)


class SigmoidWeights(nn.Module):
    """`sigmoid((s_b - c) / t)` of each behaviour by itself; threshold c (from .5) and temperature t are learned."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.threshold = nn.Parameter(torch.tensor(0.5))

    def forward(self, found: Cosines, sequence: SequenceBatch) -> Tensor:
        """-> (N,); 0 where a behaviour cannot be compared."""
        gates = torch.sigmoid((found.values - self.threshold) * torch.exp(-self.log_temperature))
        return gates * found.known


def similarity_weights(kind: str, temperature: float) -> nn.Module:
    """The form `kind`: softmax or sigmoid."""
    return {"softmax": SoftmaxWeights, "sigmoid": SigmoidWeights}[kind](temperature)
