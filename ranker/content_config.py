"""Configuration of the content mechanisms: the entries of `model.content`."""

from typing import Annotated, Literal

from pydantic import Field

from data.config import Config
from features.spec import Name

VECTORS = Field(description="which of features.vectors")
SEQUENCE = Field(description="which of features.sequences")


class Concat(Config):
    """The target's vector as it is, and whether there is one."""

    kind: Literal["concat"]
    vectors: Name = VECTORS


class ContentQuality(Config):
    """An MLP of the target's vector: the quality that its content foretells."""

    kind: Literal["quality"]
    vectors: Name = VECTORS
    hidden: tuple[int, ...] = Field((64,), description="hidden widths")
    width: int = Field(1, ge=1, description="outputs")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the activations dropped in training")


class SimTierHistogram(Config):
    """Histogram of the behaviours' similarities to the target."""

    kind: Literal["simtier"]
    vectors: Name = VECTORS
    sequence: Name = SEQUENCE
    split_by: Name | None = Field(
        None,
        description="number of the behaviours (say action or surprise): one histogram where it is above 0, one else",
    )


class Cube(Config):
    """MOON's extractor: fusion-interest, content-interest, similarities, the target's vector."""

    kind: Literal["cube"]
    vectors: Name = VECTORS
    sequences: tuple[Name, ...] = Field(min_length=1, description="which of features.sequences")
    queries: Name | None = Field(
        None, description="features.vectors of queries, of the same encoder: the query side, searches included"
    )
    weights: Literal["softmax", "sigmoid"] = Field("softmax", description="W: from similarities to weights")
    temperature: float = Field(0.1, gt=0, description="initial temperature of W, learned")
    simtier: bool = Field(True, description="similarities enter as a SimTier histogram")
    top: int = Field(10, ge=0, description="this many of the largest similarities enter as they are")
    split_by: Name | None = Field(
        None, description="number of the behaviours (say action): all of it once where it is above 0 and once elsewhere"
    )


class SemanticIds(Config):
    """Codes of the vectors as trainable ids of the target and of the behaviours, which an attention weighs."""

    kind: Literal["semantic_ids"]
    vectors: Name = Field(description="which of features.vectors; it must have codes")
    sequence: Name = SEQUENCE
    hidden: tuple[int, ...] = Field(
        (32,), min_length=1, description="widths of the attention MLP over [q, k, q-k, q*k]"
    )


class ResidualInterest(Config):
    """Kernel regression of a signed number of the behaviours (their surprise) at the target's vector."""

    kind: Literal["residual"]
    vectors: Name = VECTORS
    sequence: Name = SEQUENCE
    number: Name = Field("surprise", description="which of the sequence's numbers")
    temperatures: tuple[float, ...] = Field(
        (0.02, 0.05, 0.1, 0.2), min_length=1, description="initial kernel widths in units of cosine, learned"
    )
    shrinkage: float = Field(0.05, gt=0, description="initial kernel mass that counts as half evidence, learned")
    prior: float = Field(5.0, gt=0, description="initial pseudo-count of the user's mean, learned")


class Make(Config):
    """A DIN of the vectors alone, trained first and by itself; its vector, hidden layers and logit enter the model."""

    kind: Literal["make"]
    vectors: Name = VECTORS
    sequence: Name = SEQUENCE
    numbers: tuple[Name, ...] = Field((), description="numbers of the behaviours beside their vectors (say surprise)")
    width: int = Field(64, ge=1, description="width that the vectors are projected to")
    attention: tuple[int, ...] = Field((32,), min_length=1, description="widths of the attention MLP")
    tower: tuple[int, ...] = Field((64, 32), min_length=1, description="hidden widths above it")
    epochs: int = Field(5, ge=1, description="passes over the train split before the first step of the model itself")
    lr: float = Field(1e-3, gt=0, description="learning rate in those passes; the optimizer is that of train.dense")
    then: Literal["frozen", "trained"] = Field("frozen", description="what happens to it while the model is trained")


Mechanism = Annotated[
    Concat | ContentQuality | SimTierHistogram | Cube | ResidualInterest | SemanticIds | Make,
    Field(discriminator="kind"),
]


def sequences_of(config: Mechanism) -> tuple[str, ...]:
    """Sequences that a mechanism reads."""
    if isinstance(config, Cube):
        return config.sequences
    return (config.sequence,) if isinstance(config, SimTierHistogram | ResidualInterest | SemanticIds | Make) else ()


def vectors_of(config: Mechanism) -> tuple[str, ...]:
    """Vectors that a mechanism reads."""
    return (config.vectors, config.queries) if isinstance(config, Cube) and config.queries else (config.vectors,)


def numbers_of(config: Mechanism) -> tuple[tuple[str, str], ...]:
    """(sequence, number) pairs that a mechanism reads."""
    if isinstance(config, Make):
        return tuple((config.sequence, number) for number in config.numbers)
    if isinstance(config, ResidualInterest):
        return ((config.sequence, config.number),)
    if isinstance(config, SimTierHistogram) and config.split_by is not None:
        return ((config.sequence, config.split_by),)
    if isinstance(config, Cube) and config.split_by is not None:
        return tuple((name, config.split_by) for name in config.sequences)
    return ()
