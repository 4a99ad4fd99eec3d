"""A run directory: where a run's files lie, and how they are written so that none is ever half there."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from data.config import load_config
from data.errors import InputError
from data.files import write_json, write_text
from ranker.config import Recipe


class RunFolder:
    """runs/NAME: config.yaml, meta.json, encoder/, metrics.jsonl, metrics.json, predictions.parquet, checkpoints/, tb/.

    Figures of the test split have the plain names; those of another split carry it (metrics-valid.json).
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def encoder(self) -> Path:
        """The fitted feature encoder."""
        return self.root / "encoder"

    @property
    def checkpoints(self) -> Path:
        """step-N folders and the links `last` and `best`."""
        return self.root / "checkpoints"

    @property
    def pretraining(self) -> Path:
        """Parts that were trained before the model itself: NAME.pt and NAME.json, their figures by epoch."""
        return self.root / "pretraining"

    @property
    def log(self) -> Path:
        """metrics.jsonl: one line every few steps and one an evaluation."""
        return self.root / "metrics.jsonl"

    def metrics(self, split: str) -> Path:
        """Figures of a split."""
        return self.root / ("metrics.json" if split == "test" else f"metrics-{split}.json")

    def predictions(self, split: str) -> Path:
        """Scores of a split, one row a sample, in the split's order."""
        return self.root / ("predictions.parquet" if split == "test" else f"predictions-{split}.parquet")

    def is_there(self) -> bool:
        """Whether the folder holds a run."""
        return (self.root / "config.yaml").is_file() and (self.root / "meta.json").is_file()

    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises InputError if the folder is no run.
        """
        path = self.root / "config.yaml"
        if not path.is_file():
            raise InputError(f"{self.root}: no run (config.yaml is missing); make one with moon train")
        return load_config(path, Recipe)

    def meta(self) -> dict[str, Any]:
        """meta.json.

        Raises InputError if the folder is no run.
        """
        path = self.root / "meta.json"
        if not path.is_file():
            raise InputError(f"{self.root}: no run (meta.json is missing); make one with moon train")
        return json.loads(path.read_text())

    def write_recipe(self, recipe: Recipe) -> None:
        """Write config.yaml."""
        write_text(self.root / "config.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Write meta.json."""
        write_json(self.root / "meta.json", meta)

    def read_predictions(self, split: str) -> pl.DataFrame:
        """Scores of a split.

        Raises InputError if they have not been written.
        """
        path = self.predictions(split)
        if not path.is_file():
            raise InputError(f"{path}: no such file; write it with moon eval {self.root} --split {split}")
        return pl.read_parquet(path)
