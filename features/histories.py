"""Histories as pointers: from (CSR row, history_end) to the last L behaviours of the wanted actions."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from data.arrays import open_array
from data.dataset import Behaviors, Dataset

PIECE = 1 << 20  # behaviours looked at at once


@dataclass(frozen=True)
class Spans:
    """Behaviours of a batch of B samples, oldest first, one sample after another.

    Attributes:
        lengths: (B,) int64, behaviours of each sample.
        positions: (N,) int64, places in the behaviour arrays; N = lengths.sum().
    """

    lengths: np.ndarray
    positions: np.ndarray


class Histories:
    """Finds the behaviours of given actions before a pointer, with work that grows only with what is found."""

    def __init__(self, behaviors: Behaviors, actions: tuple[int, ...] | None) -> None:
        """`actions`: codes to keep (None: all). Selecting builds an index once, beside behaviours that are files."""
        self.behaviors = behaviors
        self._selected = None if actions is None else _selection(behaviors, actions)

    def counts(self, csr_row: np.ndarray, history_end: np.ndarray) -> np.ndarray:
        """Number of kept behaviours before each pointer, uncapped; (B,) int64."""
        first, last = self._bounds(csr_row, history_end)
        return last - first

    def last(self, csr_row: np.ndarray, history_end: np.ndarray, length: int) -> Spans:
        """The last `length` kept behaviours before each pointer; csr_row (B,), history_end (B,)."""
        first, last = self._bounds(csr_row, history_end)
        lengths = np.minimum(last - first, length)
        positions = ranges(last - lengths, lengths)
        if self._selected is not None:
            positions = np.asarray(self._selected[positions])
        return Spans(lengths, positions)

    def _bounds(self, csr_row: np.ndarray, history_end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = np.asarray(self.behaviors.offsets[csr_row])
        end = start + history_end
        if self._selected is None:
            return start, end
        return np.searchsorted(self._selected, start), np.searchsorted(self._selected, end)


class SeenInTraining:
    """Places in the behaviour arrays that some train sample sees, a piece at a time: what may be learnt from them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @cached_property
    def _spans(self) -> tuple[np.ndarray, np.ndarray]:
        """(start, length) of every CSR row's part before its last train sample."""
        offsets = self._dataset.behaviors().offsets
        row = "history_row" if "history_row" in self._dataset.meta["sample_columns"] else "user"
        last = self._dataset.samples("train").group_by(row).agg(pl.col("history_end").max())
        found = last.collect(engine="streaming")
        lengths = np.zeros(len(offsets) - 1, np.int64)
        lengths[found[row].to_numpy()] = found["history_end"].to_numpy()
        return np.asarray(offsets[:-1]), lengths

    @property
    def total(self) -> int:
        """How many there are."""
        return int(self._spans[1].sum())

    def __iter__(self) -> Iterator[np.ndarray]:
        """Arrays of about PIECE places (one at least, if empty)."""
        starts, lengths = self._spans
        cuts = np.searchsorted(np.cumsum(lengths), np.arange(PIECE, self.total, PIECE))
        for first, last in pairwise([0, *cuts, len(lengths)]):
            yield ranges(starts[first:last], lengths[first:last])


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenation of arange(start, start + length) over all pairs."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def _selection(behaviors: Behaviors, actions: tuple[int, ...]) -> np.ndarray:
    """Positions whose action is kept; for behaviours on disk a memory map, built in chunks, published atomically."""
    if behaviors.root is None:
        return np.flatnonzero(np.isin(behaviors.action, actions))
    path = behaviors.root / f"select-{'-'.join(map(str, sorted(actions)))}.npy"
    if not path.exists():
        _write_selection(path, behaviors, actions)
    return open_array(path)


def _write_selection(path: Path, behaviors: Behaviors, actions: tuple[int, ...], chunk: int = PIECE) -> None:
    total = len(behaviors.action)
    pieces = range(0, total, chunk)
    count = sum(int(np.isin(behaviors.action[i : i + chunk], actions).sum()) for i in pieces)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    os.close(handle)
    out = np.lib.format.open_memmap(name, mode="w+", dtype=np.int64, shape=(count,))
    filled = 0
    for i in pieces:
        found = i + np.flatnonzero(np.isin(behaviors.action[i : i + chunk], actions))
        out[filled : filled + len(found)] = found
        filled += len(found)
    out.flush()
    del out
    os.replace(name, path)
