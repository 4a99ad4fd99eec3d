"""Everything that defines a run of post-training, as one strict configuration; stages A and B are two runs."""

from typing import Literal

from pydantic import Field, model_validator

from data.config import Config
from moon_encoder.contrast import Negatives, Objective, Triplet
from moon_encoder.entities import TaggerConfig
from moon_encoder.forms import Catalogue, Form
from moon_encoder.held_out import HeldOut
from moon_encoder.mix import PUBLISHED_MIX, Kind
from moon_encoder.optimizer import OptimizerConfig
from moon_encoder.pairs import CoOccurrence, Source
from moon_encoder.shown import Views


class Cleaning(Config):
    """Which of the four cleaning steps are taken."""

    least_similar_query: bool = Field(True, description="of an item's many queries keep the least similar pair")
    merge_products: bool = Field(True, description="SKUs of one SPU count as one item")
    match_exposure: bool = Field(True, description="down-sample categories to the exposure mix")
    entities: int = Field(2, ge=0, description="texts with fewer entities go; 0: all stay")
    tagger: TaggerConfig = TaggerConfig()  # pyright: ignore[reportCallIssue]


class Search(Config):
    """A search by which the encoder is judged on valid: every query's item is ranked among a gallery of items."""

    query: Form
    item: Form
    source: Source = Field(description="where the valid pairs come from")
    queries: int = Field(1000, ge=1, description="most queries, drawn by seed")
    gallery: int | None = Field(None, ge=1, description="items ranked besides the right ones, drawn by seed; None: all")

    @property
    def name(self) -> str:
        """query->item of source."""
        return f"{self.query}->{self.item} {self.source}"


class Train(Config):
    """The loop."""

    batch_size: int = Field(256, ge=2, description="pairs a rank and step")
    epochs: int = Field(1, ge=0, description="0: only what is fitted to the data, such as a whitening")
    steps_per_epoch: int | None = Field(None, ge=1, description="None: so many that all pairs come about once")
    grad_cache: int | None = Field(None, ge=1, description="contents in memory at once (GradCache); None: the batch")
    optimizer: OptimizerConfig = OptimizerConfig()  # pyright: ignore[reportCallIssue]
    stop_metric: Literal["hr@1", "hr@10", "mrr"] = Field("hr@10", description="of the first search; the best is kept")
    patience: int | None = Field(None, ge=1, description="epochs without a better stop_metric; None: run all")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; None: at epochs' ends")
    threads: int | None = Field(None, ge=1, description="CPU threads of the compute; None: torch's choice")


class Posttrain(Config):
    """One run of stage A (broad) or B (refined)."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = 0
    stage: Literal["a", "b"] = Field("a", description="a: broad, any action; b: refined, cleaned purchases")
    catalogue: Catalogue = Catalogue()  # pyright: ignore[reportCallIssue]
    held_out: HeldOut = HeldOut()  # pyright: ignore[reportCallIssue]
    mix: tuple[Kind, ...] = Field(PUBLISHED_MIX, min_length=1, description="kinds of pairs with their weights")
    actions: tuple[str, ...] | None = Field(
        None, description="pairs of these actions only (pairs without any stay); None: all. Stage b: purchases"
    )
    co_occurrence: CoOccurrence = CoOccurrence()  # pyright: ignore[reportCallIssue]
    cleaning: Cleaning | None = Field(None, description="stage b only; by the encoder that the run starts from")
    views: Views = Views()  # pyright: ignore[reportCallIssue]
    objective: Objective = Objective()  # pyright: ignore[reportCallIssue]
    negatives: Negatives = Negatives()  # pyright: ignore[reportCallIssue]
    triplet: Triplet = Triplet()  # pyright: ignore[reportCallIssue]
    valid: tuple[Search, ...] = Field(min_length=1, description="searches on valid; the first one decides")
    train: Train = Train()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _stages(self) -> "Posttrain":
        if self.stage == "a" and self.cleaning is not None:
            raise ValueError("cleaning belongs to stage b; leave it out of stage a")
        if len({search.name for search in self.valid}) < len(self.valid):
            raise ValueError("valid: two searches have the same query, item and source")
        return self
