"""The prepared dataset: where its files lie and how they are read."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.arrays import open_array
from data.errors import InputError

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
DERIVED = ("select-", "derived-")  # files beside the behaviours that readers make for themselves


@dataclass(frozen=True)
class Behaviors:
    """Behaviours of all users as CSR memory maps; row r is offsets[r]:offsets[r+1], ordered by (ts, item).

    Attributes:
        root: folder of the files; None for behaviours in memory.
        offsets: (rows + 1,) int64.
        item: (N,) int32 item indices. ts: (N,) int64 Unix seconds. action: (N,) int8 codes.
        side: further columns by name, (N,) each.
    """

    root: Path | None
    offsets: np.ndarray
    item: np.ndarray
    ts: np.ndarray
    action: np.ndarray
    side: dict[str, np.ndarray]


class Dataset:
    """A prepared dataset on disk. Opening reads `dataset.json` only."""

    def __init__(self, root: Path | str) -> None:
        """Raises InputError if `root` is no prepared dataset or of another schema version."""
        self.root = Path(root)
        path = self.root / "dataset.json"
        if not path.is_file():
            raise InputError(f"{self.root}: no prepared dataset (dataset.json is missing); make one with moon prepare")
        try:
            self.meta: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON: {error}") from None
        version = self.meta.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; prepare the dataset again"
            )

    @property
    def fingerprint(self) -> str:
        """sha256 over the content files."""
        return self.meta["fingerprint"]

    @property
    def actions(self) -> list[str]:
        """Names of the action codes."""
        return self.meta["actions"]

    @property
    def timed_histories(self) -> bool:
        """Whether behaviours carry times; ready-made histories have an order only."""
        return self.meta["time"] == "unix seconds" and "history_row" not in self.meta["sample_columns"]

    def items(self) -> pl.LazyFrame:
        """items.parquet; row number = item index."""
        return pl.scan_parquet(self.root / "items.parquet")

    def users(self) -> pl.LazyFrame:
        """users.parquet; row number = user index."""
        return pl.scan_parquet(self.root / "users.parquet")

    def sample_files(self, split: str) -> list[Path]:
        """Parquet parts of a split, in row order.

        Raises InputError for an unknown or empty split, or a part that is cut off.
        """
        if split not in SPLITS:
            raise InputError(f"split {split!r} is unknown; splits: {', '.join(SPLITS)}")
        files = sorted((self.root / "samples" / split).glob("part-*.parquet"))
        if not files or not self.meta["counts"][split]:
            raise InputError(f"{self.root}: split {split!r} holds no rows")
        for file in files:
            _require_whole(file)
        return files

    def samples(self, split: str) -> pl.LazyFrame:
        """All rows of a split, lazily, in row order."""
        return pl.scan_parquet(self.sample_files(split))

    def behaviors(self) -> Behaviors:
        """The behaviour memory maps (nothing is read yet).

        Raises InputError for a file that is absent or cut off.
        """
        root = self.root / "behaviors"
        arrays = {p.stem: _mapped(p) for p in root.glob("*.npy") if not p.name.startswith(DERIVED)}
        for name in ("offsets", "item", "ts", "action"):
            if name not in arrays:
                raise InputError(f"{root / name}.npy: no such file; prepare the dataset again")
        base = {name: arrays.pop(name) for name in ("offsets", "item", "ts", "action")}
        return Behaviors(root, side=arrays, **base)

    def train_counts(self, entity: str) -> np.ndarray:
        """Train impressions of every `item` or `user`, by index; int64."""
        size = self.meta["counts"][f"{entity}s"]
        counts = np.zeros(size, np.int64)
        found = self.samples("train").group_by(entity).len().collect(engine="streaming")
        counts[found[entity].to_numpy()] = found["len"].to_numpy()
        return counts


def _mapped(file: Path) -> np.ndarray:
    """A read-only memory map; InputError if the file is shorter than its header says."""
    try:
        return open_array(file)
    except InputError as error:
        raise InputError(f"{error}; prepare the dataset again") from None


def _require_whole(file: Path) -> None:
    """Raise InputError unless the file ends as parquet does (its index stands at the end)."""
    with file.open("rb") as opened:
        opened.seek(-min(4, file.stat().st_size), os.SEEK_END)
        if opened.read() != b"PAR1":
            raise InputError(f"{file}: not a whole parquet file (truncated?); prepare the dataset again")
