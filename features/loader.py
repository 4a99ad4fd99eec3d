"""The loader: every batch is a pure function of (dataset, split, seed, epoch, batch number).

Rows are read in windows of whole row groups whose order is shuffled by seed and epoch; rows are shuffled inside
a window. Batch b of an epoch covers the same rows however many ranks, workers or restarts there are: a global
batch of `batch_size * world_size` rows is cut into one slice a rank.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from data.errors import InputError
from data.source import one_line
from features.batch import Batch
from features.collate import Collator
from features.columns import Codes
from features.samples import SampleEncoder, Window

WINDOW_ROWS = 1 << 19
T = TypeVar("T")


@dataclass(frozen=True)
class _Group:
    """A row group: file, number in the file, first row in the split, rows."""

    file: Path
    number: int
    first: int
    rows: int


class Loader:
    """Iterates over a split in batches. In training rows are shuffled; otherwise they keep the split's order."""

    def __init__(
        self,
        samples: SampleEncoder,
        split: str,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        pinned: bool = False,
    ) -> None:
        """`batch_size`: rows a rank and step. `workers`: threads that build batches ahead (0: none). `pinned`: batches
        lie in page-locked memory, from which a GPU copies while it computes.

        Raises InputError for an absent or damaged split.
        """
        self.samples, self.split, self.batch_size = samples, split, batch_size
        self.seed, self.shuffle, self.rank, self.world_size, self.workers = seed, shuffle, rank, world_size, workers
        self.pinned = pinned
        self._groups = _row_groups(samples.dataset.sample_files(split))
        self.rows = sum(g.rows for g in self._groups)
        self._collator = Collator(samples)
        self._cache: OrderedDict[tuple[int, int], Future[Window]] = OrderedDict()
        self._lock = Lock()

    @property
    def batches(self) -> int:
        """Batches of an epoch on each rank; the last may be smaller, and empty on some ranks."""
        return -(-self.rows // (self.batch_size * self.world_size))

    def share(self, number: int, rows: int) -> float:
        """Weight of this rank's mean loss over its `rows` rows of batch `number`.

        With it the ranks' average is the mean over all rows of the batch.
        """
        size = self.batch_size * self.world_size
        return rows * self.world_size / min(size, self.rows - number * size)

    def epoch(self, epoch: int = 0, first_batch: int = 0) -> Iterator[Batch]:
        """Batches `first_batch`.. of an epoch, in order."""
        windows = self._windows(epoch)
        jobs = range(first_batch, self.batches)
        if not self.workers:
            yield from (self._batch(epoch, windows, number) for number in jobs)
            return
        with ThreadPoolExecutor(self.workers, "loader") as pool:
            waiting: deque[Future[Batch]] = deque()
            try:
                for number in jobs:
                    waiting.append(pool.submit(self._batch, epoch, windows, number))
                    if len(waiting) > 2 * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _batch(self, epoch: int, windows: "list[list[_Group]]", number: int) -> Batch:
        size = self.batch_size * self.world_size
        start = number * size
        total = min(size, self.rows - start)
        share = -(-total // self.world_size)
        first = start + min(self.rank * share, total)
        last = start + min((self.rank + 1) * share, total)
        rng = np.random.default_rng((self.seed, epoch, number, self.rank)) if self.shuffle else None
        begin, pieces = 0, []
        for place, groups in enumerate(windows):
            end = begin + sum(g.rows for g in groups)
            if (begin < last and first < end) or (first == last and begin <= first <= end and not pieces):
                window = self._window(epoch, place, groups)
                pieces.append((window, np.arange(max(first, begin) - begin, min(last, end) - begin)))
            begin = end
        window, chosen = pieces[0] if len(pieces) == 1 else _joined(pieces)
        batch = self._collator.collate(window, chosen, rng)
        return batch.pin_memory() if self.pinned else batch

    def _windows(self, epoch: int) -> "list[list[_Group]]":
        groups = list(self._groups)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(groups))
            groups = [groups[i] for i in order]
        windows: list[list[_Group]] = [[]]
        for group in groups:
            if sum(g.rows for g in windows[-1]) + group.rows > WINDOW_ROWS and windows[-1]:
                windows.append([])
            windows[-1].append(group)
        return windows

    def _window(self, epoch: int, place: int, groups: "list[_Group]") -> Window:
        """The encoded window, read once and kept while batches need it (two windows at most)."""
        key = (epoch, place)
        with self._lock:
            future = self._cache.get(key)
            mine = future is None
            if future is None:
                future = self._cache[key] = Future()
                while len(self._cache) > 2:
                    self._cache.popitem(last=False)
        if mine:
            try:
                future.set_result(self._read(epoch, place, groups))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _read(self, epoch: int, place: int, groups: "list[_Group]") -> Window:
        frames = [_read_group(group, self.samples.read_columns) for group in groups]
        frame = pl.concat(frames)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch, place, 1)).permutation(len(frame))
            frame = frame[order]
        return self.samples.window(frame)


def _read_group(group: _Group, columns: list[str]) -> pl.DataFrame:
    try:
        table = pq.ParquetFile(group.file).read_row_group(group.number, columns=columns)
    except (OSError, ValueError) as error:
        raise InputError(f"{group.file}: row group {group.number} is damaged: {one_line(error)}") from None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(pl.int_range(group.first, group.first + group.rows, dtype=pl.Int64).alias("row"), *columns)


def _row_groups(files: list[Path]) -> list[_Group]:
    groups, first = [], 0
    for file in files:
        try:
            meta = pq.ParquetFile(file).metadata
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: not a readable parquet file (truncated?): {one_line(error)}") from None
        for number in range(meta.num_row_groups):
            rows = meta.row_group(number).num_rows
            groups.append(_Group(file, number, first, rows))
            first += rows
    return groups


def _joined(pieces: list[tuple[Window, np.ndarray]]) -> tuple[Window, np.ndarray]:
    """One window of the chosen rows of several."""

    def cut(name: str) -> np.ndarray:
        return np.concatenate([getattr(window, name)[chosen] for window, chosen in pieces])

    names = ("row", "label", "user", "item", "history_row", "ts", "history_end", "dense")
    window = Window(**{name: cut(name) for name in names}, codes={})
    for name in pieces[0][0].codes:
        window.codes[name] = Codes.joined([w.codes[name].take(chosen) for w, chosen in pieces])
    return window, np.arange(len(window))
