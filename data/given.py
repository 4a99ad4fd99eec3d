"""Behaviours that a source gives ready-made, one list a history, instead of as events in time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl

from data.source import About


@runtime_checkable
class GivenHistories(Protocol):
    """A source whose samples point to ready-made histories by `history_row`."""

    def histories(self) -> Iterator[pl.DataFrame]:
        """Frames in order of history_row with list columns `item_id`, `action` and the side columns, oldest first.

        It is called twice and must give the same frames both times.
        """
        ...


def write_given(folder: Path, about: About, items: pl.DataFrame, source: GivenHistories) -> pl.DataFrame:
    """Write the CSR of ready-made histories; returns the catalogue plus the items that only histories know.

    The first pass learns lengths and items, the second writes: memory is one frame plus the catalogue plus eight
    bytes a history. Times are unknown: ts is 0.
    """
    folder.mkdir(parents=True)
    lengths, unlisted = [np.zeros(1, np.int64)], items["item_id"].clear()
    for frame in source.histories():
        lengths.append(frame["item_id"].list.len().to_numpy().astype(np.int64))
        seen = frame["item_id"].explode().drop_nulls().unique().cast(items.schema["item_id"])
        new = seen.filter(~seen.is_in(items["item_id"].implode()) & ~seen.is_in(unlisted.implode()))
        unlisted = pl.concat([unlisted, new])
    items = pl.concat([items, pl.DataFrame({"item_id": unlisted})], how="diagonal_relaxed").sort("item_id")
    offsets = np.cumsum(np.concatenate(lengths))
    np.save(folder / "offsets.npy", offsets)
    maps = empty_maps(folder, int(offsets[-1]), about)
    index, at = items.select("item_id").with_row_index("item"), 0
    for frame in source.histories():
        flat = frame.explode("item_id", "action", *about.side, empty_as_null=False)
        flat = flat.cast({"item_id": items.schema["item_id"]})
        flat = flat.join(index, on="item_id", how="left", maintain_order="left")
        for name, target in maps.items():
            target[at : at + len(flat)] = 0 if name == "ts" else flat[name].to_numpy()
        at += len(flat)
    assert at == offsets[-1], "histories() gave other frames the second time"
    return items


def write_none(folder: Path, about: About) -> None:
    """An empty CSR, for a catalogue without users."""
    folder.mkdir(parents=True)
    np.save(folder / "offsets.npy", np.zeros(1, np.int64))
    empty_maps(folder, 0, about)


def empty_maps(folder: Path, size: int, about: About) -> dict[str, np.ndarray]:
    """Writable behaviour arrays of `size` elements by name, backed by FOLDER/NAME.npy."""
    dtypes = {"item": np.dtype(np.int32), "ts": np.dtype(np.int64), "action": np.dtype(np.int8)}
    dtypes |= {name: np.dtype(str(dtype).lower()) for name, dtype in about.side.items()}
    return {name: _empty_map(folder / f"{name}.npy", dtype, size) for name, dtype in dtypes.items()}


def _empty_map(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    """A memory map, or, for no elements, an empty array saved at once (a file of no bytes cannot be mapped)."""
    if size:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size,))
    empty = np.empty(0, dtype)
    np.save(path, empty)
    return empty
