"""The walk through time that turns an ordered log into samples, behaviours and point-in-time counts."""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from data.arrays import open_array
from data.dataset import SPLITS
from data.given import empty_maps
from data.progress import Progress
from data.running import EntityOrder, RunningCounts
from data.source import About, Split

GROUP_ROWS = 65_536
PART_ROWS = 4_194_304


@dataclass(frozen=True)
class Entities:
    """Totals that are known before the walk.

    Attributes:
        user_samples: (users,) samples of each user. user_behaviors: (users,) behaviours of each user.
        items: number of items. rows: rows of the log.
    """

    user_samples: np.ndarray
    user_behaviors: np.ndarray
    items: int
    rows: int


class SampleWriter:
    """Appends samples of one split to parquet parts with row groups of at most GROUP_ROWS rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0
        folder.mkdir(parents=True)
        self._waiting: list[pl.DataFrame] = []
        self._writer: pq.ParquetWriter | None = None
        self._in_part = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Take rows in; whole row groups are written at once."""
        self.rows += len(frame)
        self._waiting.append(frame)
        waiting = sum(map(len, self._waiting))
        if waiting >= GROUP_ROWS:
            rows = pl.concat(self._waiting)
            whole = waiting - waiting % GROUP_ROWS
            self._write(rows.head(whole))
            self._waiting = [rows.tail(waiting - whole)]

    def close(self) -> None:
        """Write what is left."""
        rows = pl.concat(self._waiting) if self._waiting else pl.DataFrame()
        if len(rows):
            self._write(rows)
        if self._writer:
            self._writer.close()

    def _write(self, rows: pl.DataFrame) -> None:
        table = rows.to_arrow()
        if self._writer is None or self._in_part >= PART_ROWS:
            if self._writer:
                self._writer.close()
            part = len(list(self.folder.glob("part-*.parquet")))
            self._writer = pq.ParquetWriter(self.folder / f"part-{part:05d}.parquet", table.schema, compression="zstd")
            self._in_part = 0
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._in_part += len(rows)


class BehaviorWriter:
    """Writes behaviours into preallocated CSR memory maps at each user's cursor."""

    def __init__(self, folder: Path, per_user: np.ndarray, about: About) -> None:
        folder.mkdir(parents=True)
        self.offsets = np.concatenate(([0], np.cumsum(per_user))).astype(np.int64)
        np.save(folder / "offsets.npy", self.offsets)
        self._maps = empty_maps(folder, int(self.offsets[-1]), about)
        for name, target in self._maps.items():
            _reserve(folder / f"{name}.npy", target)

    def write(self, positions: np.ndarray, rows: pl.DataFrame) -> None:
        """Put `rows` at absolute `positions`."""
        for name, target in self._maps.items():
            target[positions] = rows[name].to_numpy()
            if isinstance(target, np.memmap):  # what is written stays in the file, but leaves our memory
                target._mmap.madvise(mmap.MADV_DONTNEED)  # pyright: ignore[reportAttributeAccessIssue]

    def close(self) -> None:
        """Flush to disk."""
        for target in self._maps.values():
            if isinstance(target, np.memmap):
                target.flush()
        self._maps.clear()


def _reserve(file: Path, array: np.ndarray) -> None:
    """Take the disk space of a map now: a full disk is then an OSError here, not a SIGBUS at some later write."""
    if isinstance(array, np.memmap):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def split_rule(split: Split, cuts: tuple[int, int] | None) -> Callable[[pl.DataFrame, np.ndarray], np.ndarray]:
    """Function (rows, k/n) -> split code of each row: 0 train, 1 valid, 2 test. `cuts`: temporal edges, Unix s."""
    if split.rule == "within_user":
        edges = np.array([split.train, split.train + split.valid])
        return lambda rows, share: np.searchsorted(np.round(edges, 12), share, side="right")
    if split.rule == "temporal":
        assert cuts is not None
        return lambda rows, share: np.searchsorted(np.array(cuts), rows["ts"].to_numpy(), side="right")
    return lambda rows, share: rows["split"].replace_strict({s: i for i, s in enumerate(SPLITS)}).to_numpy()


def walk(
    ordered: "list[Path]",
    out: Path,
    about: About,
    entities: Entities,
    assign: Callable[[pl.DataFrame, np.ndarray], np.ndarray],
    given_histories: bool = False,
) -> dict[str, int]:
    """Walk the ordered bucket files and write samples and behaviours under `out`; returns rows per split.

    With `given_histories` the behaviours are there already and a sample sees the whole row it points to.
    """
    users = len(entities.user_samples)
    seen_behaviors, seen_samples = RunningCounts(users), RunningCounts(users)
    counts = {name: RunningCounts(entities.items if name.startswith("item") else users) for name in COUNTS}
    behaviors = None if given_histories else BehaviorWriter(out / "behaviors", entities.user_behaviors, about)
    given = np.diff(open_array(out / "behaviors" / "offsets.npy")) if given_histories else None
    writers = [SampleWriter(out / "samples" / split) for split in SPLITS]
    progress = Progress("preparing", entities.rows)
    for file in ordered:
        rows = pl.read_parquet(file, memory_map=False)
        user, ts = rows["user"].to_numpy(), rows["ts"].to_numpy()
        by_user, by_item = EntityOrder(user, ts), EntityOrder(rows["item"].to_numpy(), ts)
        sample, behaves = rows["sample"].to_numpy(), rows["action"].is_not_null().to_numpy()

        if behaviors is not None:
            place = seen_behaviors.totals[user] + by_user.rank(behaves)
            behaviors.write((behaviors.offsets[user] + place)[behaves], rows.filter(behaves))
            history_end = seen_behaviors.advance(by_user, behaves)
        else:
            assert given is not None
            history_end = given[rows["history_row"].to_numpy()]

        nth = seen_samples.totals[user] + by_user.rank(sample)  # from 0
        seen_samples.advance(by_user, sample)
        split = assign(rows, nth / np.maximum(entities.user_samples[user], 1))
        train = sample & (split == 0)
        positive = train & (rows["label"].fill_null(0).to_numpy() == 1)
        orders = {"item": by_item, "user": by_user}
        found = {
            name: counter.advance(orders[name.split("_")[0]], positive if name.endswith("positives") else train)
            for name, counter in counts.items()
        }
        table = _samples(rows, history_end, found, about)
        for code, writer in enumerate(writers):
            writer.add(table.filter(sample & (split == code)))
        progress.add(len(rows))
    progress.close()
    if behaviors is not None:
        behaviors.close()
    for writer in writers:
        writer.close()
    return {split: writer.rows for split, writer in zip(SPLITS, writers, strict=True)}


COUNTS = ("item_impressions", "item_positives", "user_impressions", "user_positives")


def _samples(rows: pl.DataFrame, history_end: np.ndarray, counts: dict[str, np.ndarray], about: About) -> pl.DataFrame:
    """The sample columns of dataset.json, in their fixed order."""
    optional = [
        c for c in ("history_row", "request_id", "position", "query", "query_image", "propensity") if c in rows.columns
    ]
    return rows.select(
        "ts",
        "user",
        "item",
        pl.col("label").cast(pl.Int8),
        pl.Series("history_end", history_end.astype(np.int32)),
        *optional,
        *(pl.Series(name, values.astype(np.int32)) for name, values in counts.items()),
        *(pl.col(name).cast(dtype) for name, dtype in about.context.items()),
    )
