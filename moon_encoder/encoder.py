"""The one interface of every backbone: contents in, vectors out.

Training, recall and the representation centre know an encoder by this interface alone. `prepare` is the part that
needs no gradient (decoding, resizing, tokenising), runs on the CPU and is safe in threads; `forward` is the rest.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from moon_encoder.content import Content


class Inputs(Protocol):
    """A prepared batch of n contents."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self:
        """Consecutive rows of the batch (GradCache runs it in parts)."""
        ...

    def to(self, device: torch.device) -> Self: ...


class Encoder(nn.Module, ABC):
    """A multimodal encoder. Vectors are not normalised; cosines are taken over any Matryoshka prefix.

    Attributes:
        dim: width of a vector.
        matryoshka: usable prefix widths below `dim`, ascending.
    """

    dim: int
    matryoshka: tuple[int, ...]

    @abstractmethod
    def prepare(self, contents: Sequence[Content]) -> Inputs:
        """Contents (n) -> a batch on the CPU. Any mix of text-only, image-only and both."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor:
        """A batch -> vectors (n, dim) float32, with gradient in training mode."""
