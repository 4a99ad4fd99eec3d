"""A source held in memory, and a random log for it with what makes time hard: ties, mixed events, out of order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from data.source import About, Chunk, Split

ACTIONS = ("click", "buy")
T0 = 1_700_000_000
SCHEMA = {
    "user_id": pl.Int64,
    "item_id": pl.Int64,
    "ts": pl.Int64,
    "label": pl.Float64,
    "action": pl.Int8,
    "sample": pl.Boolean,
    "weight": pl.Float32,
    "hour": pl.Int32,
}


@dataclass
class ToyLog:
    """`rows` (columns of SCHEMA, and `split` where the rule is "given") as chunks of `chunk` rows of one file."""

    rows: pl.DataFrame
    split: Split = field(default_factory=lambda: Split(rule="within_user"))
    catalogue: pl.DataFrame = field(default_factory=lambda: pl.DataFrame({"item_id": pl.Series([], dtype=pl.Int64)}))
    user_table: pl.DataFrame | None = None
    chunk: int = 1000

    @property
    def about(self) -> About:
        return About("toy", "click", ACTIONS, self.split, side={"weight": pl.Float32()}, context={"hour": pl.Int32()})

    def items(self) -> pl.DataFrame:
        return self.catalogue

    def users(self) -> pl.DataFrame | None:
        return self.user_table

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, len(self.rows), self.chunk):
            yield Chunk(self.rows[start : start + self.chunk], Path("toy.log"), start)


def random_rows(rows: int = 1500, users: int = 12, items: int = 25, seconds: int = 4000, seed: int = 0) -> pl.DataFrame:
    """Events in no order: impressions, behaviours and rows that are both; several events share a second."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, rows, p=[0.5, 0.2, 0.3])  # impression, behaviour, both
    label, action = rng.integers(0, 2, rows).tolist(), rng.integers(0, 2, rows).tolist()
    ts = T0 + rng.integers(0, seconds, rows)
    frame = pl.DataFrame(
        {
            "user_id": 100 + rng.integers(0, users, rows) * 7,
            "item_id": 1000 - rng.integers(0, items, rows) * 3,
            "ts": ts,
            "label": [None if k == 1 else value for k, value in zip(kind, label, strict=True)],
            "action": [None if k == 0 else value for k, value in zip(kind, action, strict=True)],
            "sample": kind != 1,
            "weight": rng.random(rows),
            "hour": (ts // 3600) % 24,
        },
        schema=SCHEMA,
        strict=False,
    )
    at = (pl.col("ts") - T0) / seconds
    split = pl.when(at < 0.6).then(pl.lit("train")).when(at < 0.8).then(pl.lit("valid"))
    frame = frame.with_columns(split=split.otherwise(pl.lit("test")))
    return frame.filter(pl.struct("user_id", "item_id", "ts", "sample", "action").is_first_distinct())
