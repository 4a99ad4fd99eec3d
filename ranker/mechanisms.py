"""Content mechanisms by the `kind` of their configuration."""

from torch import nn

from ranker.concatenation import Concatenation
from ranker.config import Mechanism


def mechanism(config: Mechanism, vector_dims: dict[str, int]) -> nn.Module:
    """The module of one entry of `model.content`."""
    return Concatenation(config.vectors, vector_dims[config.vectors])
