"""The contrastive objective of one batch: which negatives, which loss, which prefixes, in which directions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from data.config import Config
from data.errors import InputError
from moon_encoder.losses import Temperature, circle, info_nce, matryoshka, triplet
from moon_encoder.negatives import Block, Earlier, Labels, gather


class Objective(Config):
    """The loss."""

    loss: Literal["info_nce", "circle"] = "info_nce"
    temperature: float = Field(0.05, gt=0, description="InfoNCE: tau, or where it starts")
    learn_temperature: bool = Field(True, description="InfoNCE: tau is trained")
    gamma: float = Field(64.0, gt=0, description="circle: scale g")
    margin: float = Field(0.25, gt=0, description="circle: relaxation m")
    symmetric: bool = Field(True, description="items search for their queries as well; the two losses are averaged")
    matryoshka: dict[int, float] | None = Field(
        None, description="weight of each prefix {dim: weight}; None: the encoder's prefixes and the whole, equally"
    )


class Negatives(Config):
    """What the positive is told apart from, beside the other items of the batch."""

    hard: int = Field(0, ge=0, description="items of the positive's category a pair")
    spatial: bool = Field(True, description="the items of all ranks' batches (with one rank there are no others)")
    queue: int = Field(0, ge=0, description="temporal: batches whose items are kept as negatives")
    momentum: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="queue: its vectors are made by a slow copy of the encoder, of which so much stays at each step",
    )


class Triplet(Config):
    """Items of the same search that did not get the action, pushed below the one that did."""

    weight: float = Field(0.0, ge=0, description="weight of the triplet loss; 0: off")
    margin: float = Field(0.1, gt=0, description="by how much their cosine is to be lower")
    items: Literal["clicked", "shown"] = Field(
        "clicked", description="clicked but not bought (without requests: co_occurrence.lost); shown, not clicked"
    )


@dataclass(frozen=True)
class Vectors:
    """Vectors of one rank's batch of B pairs, dim D.

    Attributes:
        query: (B, D). item: (B + hard, D), the positives first. lost: (T, D) or None, items of the triplet loss.
        labels: of `item`. lost_row: (T,) int64, the pair that each row of `lost` belongs to.
    """

    query: Tensor
    item: Tensor
    labels: Labels
    lost: Tensor | None = None
    lost_row: Tensor | None = None


class Contrast(nn.Module):
    """The objective with its learnable temperature."""

    def __init__(self, objective: Objective, negatives: Negatives, lost: Triplet, weights: dict[int, float]) -> None:
        """weights: of the Matryoshka prefixes, see Objective.matryoshka."""
        super().__init__()
        self.objective, self.negatives, self.lost, self.weights = objective, negatives, lost, weights
        self.temperature = Temperature(objective.temperature)
        self.temperature.requires_grad_(objective.learn_temperature and objective.loss == "info_nce")

    def loss(self, vectors: Vectors, earlier: Earlier | None = None) -> Tensor:
        """The loss; `earlier`: what a queue holds."""
        pairs = len(vectors.query)
        positive, mine = vectors.item[:pairs], vectors.labels[:pairs]
        items = Block(vectors.item, vectors.labels)
        asked = Block(vectors.query, mine)
        if self.negatives.spatial:
            items = gather(items)
            asked = gather(asked) if self.objective.symmetric else asked

        def of_prefix(dim: int) -> Tensor:
            score = self._loss()
            loss = score(vectors.query, positive, mine, [items], dim, earlier)
            if self.objective.symmetric:
                loss = (loss + score(positive, vectors.query, mine, [asked], dim, None)) / 2
            if self.lost.weight and vectors.lost is not None and vectors.lost_row is not None:
                row = vectors.lost_row
                below = triplet(vectors.query[row], positive[row], vectors.lost, self.lost.margin, dim)
                loss = loss + self.lost.weight * below * (len(row) / pairs)
            return loss

        return matryoshka(of_prefix, self.weights)

    def queued(self, keys: Tensor, labels: Labels) -> Block:
        """The block that a queue takes in after the backward pass: all ranks' `keys`, where they are shared."""
        block = Block(keys, labels)
        return gather(block) if self.negatives.spatial else block

    def _loss(self) -> Callable[..., Tensor]:
        if self.objective.loss == "circle":
            gamma, margin = self.objective.gamma, self.objective.margin
            return lambda q, p, labels, pool, dim, earlier: circle(q, p, labels, pool, gamma, margin, dim, earlier)
        scale = self.temperature()
        return lambda q, p, labels, pool, dim, earlier: info_nce(q, p, labels, pool, scale, dim, earlier)


def prefix_weights(objective: Objective, dim: int, prefixes: tuple[int, ...]) -> dict[int, float]:
    """Weights {dim: weight} of an encoder's prefixes.

    Raises InputError for a prefix wider than the vector.
    """
    if objective.matryoshka is None:
        return dict.fromkeys([*prefixes, dim], 1.0)
    if too_wide := [d for d in objective.matryoshka if not 0 < d <= dim]:
        raise InputError(f"objective.matryoshka: no prefix of {too_wide[0]} in vectors of {dim}")
    return objective.matryoshka
