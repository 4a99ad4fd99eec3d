"""Everything that defines a run of stage 1, as one strict configuration."""

from pydantic import Field, model_validator

from data.config import Config
from moon_encoder.config import MllmConfig
from moon_encoder.forms import Catalogue
from moon_encoder.generation_tasks import Task
from moon_encoder.held_out import HeldOut
from moon_encoder.optimizer import OptimizerConfig


class PretrainLoop(Config):
    """The loop."""

    batch_size: int = Field(32, ge=1, description="items a rank and step, each with its questions")
    questions: int | None = Field(None, ge=1, description="questions an item and step, drawn by seed; None: all")
    epochs: int = Field(1, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()  # pyright: ignore[reportCallIssue]
    evals_per_epoch: int = Field(1, ge=1, description="evaluations on valid an epoch; the best is kept")
    patience: int | None = Field(None, ge=1, description="evaluations without a lower perplexity; None: run all")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; None: at evaluations")
    workers: int = Field(1, ge=1, description="threads that prepare batches ahead")
    threads: int | None = Field(None, ge=1, description="CPU threads of the compute; None: torch's choice")


class Judged(Config):
    """How held-out items are judged."""

    valid_items: int = Field(256, ge=1, description="most items of valid, drawn by seed, at each evaluation")
    test_items: int = Field(1000, ge=1, description="most items of test, drawn by seed, at the end")
    batch_size: int = Field(64, ge=1, description="items at once")
    longest: int = Field(32, ge=1, description="most tokens of a generated answer")


class Pretrain(Config):
    """One run of stage 1."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = 0
    encoder: MllmConfig
    catalogue: Catalogue = Catalogue()  # pyright: ignore[reportCallIssue]
    held_out: HeldOut = Field(description="items that are never trained on; give key: title, valid and test")
    tasks: tuple[Task, ...] = Field(min_length=1)
    train: PretrainLoop = PretrainLoop()  # pyright: ignore[reportCallIssue]
    judged: Judged = Judged()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _sound(self) -> "Pretrain":
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("tasks: two have the same name")
        if not self.held_out.valid or not self.held_out.test:
            raise ValueError("held_out: valid and test must be above 0, perplexity is judged on items not trained on")
        return self
