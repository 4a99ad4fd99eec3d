"""Time-ordering a log larger than memory: spill sorted runs, then merge them a span of time at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from data.errors import InputError
from data.progress import Progress
from data.source import Source
from data.validate import Rejections

BUCKET_ROWS = 1 << 20
SPAN_SECONDS = 3600


@dataclass(frozen=True)
class Spilled:
    """Sorted runs on disk and what was learnt while writing them.

    Attributes:
        runs: parquet files, each sorted by ts; `_place` numbers the rows as the source gave them.
        chunks: (first `_place`, file, first row in the file) of every chunk, ascending.
        edges: ascending ts that cut time into buckets of about BUCKET_ROWS rows; rows of one second stay together.
        spans: span number (ts // SPAN_SECONDS) -> rows that are samples.
        users: sorted user ids seen. items: sorted item ids seen.
    """

    runs: list[Path]
    chunks: list[tuple[int, Path, int]]
    edges: list[int]
    spans: pl.DataFrame
    users: pl.Series
    items: pl.Series

    def chunk_of(self, places: np.ndarray) -> np.ndarray:
        """Which of `chunks` each `_place` stems from; (n,) int64."""
        return np.searchsorted([first for first, _, _ in self.chunks], places, side="right") - 1


def spill(source: Source, folder: Path, rejections: Rejections) -> Spilled:
    """Stream the source's chunks through the row checks into sorted runs under `folder`.

    Raises InputError if there are none or too many are bad.
    """
    runs: list[Path] = []
    chunks: list[tuple[int, Path, int]] = []
    spans, users, items = [], [], []
    progress, place = Progress("reading"), 0
    for chunk in source.chunks():
        good = rejections.filter(chunk)
        progress.add(len(chunk.frame))
        if not len(good):
            continue
        numbers = (pl.col("_row").cast(pl.Int64) + (place - chunk.first_row)).alias("_place")
        good = good.with_columns(pl.col("ts").cast(pl.Int64), numbers).drop("_row").sort("ts")
        chunks.append((place, chunk.file, chunk.first_row))
        place = int(good["_place"].max()) + 1  # pyright: ignore[reportArgumentType]
        run = folder / f"run-{len(runs):06d}.parquet"
        good.write_parquet(run, compression="lz4", row_group_size=1 << 15)
        runs.append(run)
        span = (pl.col("ts") // SPAN_SECONDS).alias("span")
        spans.append(good.group_by(span).agg(rows=pl.len(), samples=pl.col("sample").sum()))
        users.append(good["user_id"].unique())
        items.append(good["item_id"].unique())
        spans, users, items = [_merged(spans)], [_distinct(users)], [_distinct(items)]
    progress.close()
    rejections.check()
    if not runs:
        raise InputError(f"source {source.about.name}: the log holds no rows")
    counts = spans[0].sort("span")
    return Spilled(runs, chunks, _edges(counts), counts, users[0].sort(), items[0].sort())


def buckets(spilled: Spilled) -> Iterator[pl.DataFrame]:
    """All rows in order of ts, one bucket of time at a time."""
    log = pl.scan_parquet(spilled.runs)
    for first, last in zip(spilled.edges[:-1], spilled.edges[1:], strict=True):
        rows = log.filter((pl.col("ts") >= first) & (pl.col("ts") < last)).collect(engine="streaming")
        if len(rows):
            yield rows


def time_of_share(spans: pl.DataFrame, share: float) -> int:
    """Earliest span edge with at least `share` of the samples before it, in Unix seconds."""
    before = spans["samples"].cum_sum().to_numpy()
    place = int(np.searchsorted(before, share * before[-1]))
    return int(spans["span"][min(place, len(spans) - 1)] + 1) * SPAN_SECONDS


def _merged(frames: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames).group_by("span").agg(pl.col("rows").sum(), pl.col("samples").sum())


def _distinct(series: list[pl.Series]) -> pl.Series:
    return pl.concat(series).unique()


def _edges(counts: pl.DataFrame) -> list[int]:
    """Bucket edges: a new bucket starts where the rows so far reach the next multiple of BUCKET_ROWS."""
    span, rows = counts["span"].to_numpy(), counts["rows"].cum_sum().to_numpy()
    bucket = (rows - counts["rows"].to_numpy()) // BUCKET_ROWS
    starts = span[np.flatnonzero(np.diff(bucket, prepend=-1))]
    return [*(int(s) * SPAN_SECONDS for s in starts), int(span[-1] + 1) * SPAN_SECONDS]
