"""Behaviours that a source gives ready-made, one list a history, instead of as events in time."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import polars as pl

from data.errors import InputError
from data.source import About, one_line

MERGE_ROWS = 1 << 20


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
    bytes a history. Times are unknown: ts is 0. `items` is sorted by `item_id`.
    Raises InputError naming the history (its history_row) for lists of unlike lengths, nulls in a list, a dtype
    that does not fit, or an action code that has no name.
    """
    folder.mkdir(parents=True)
    known, dtype = items["item_id"], items.schema["item_id"]
    lengths, unlisted, rows = [np.zeros(1, np.int64)], [known.clear()], 0
    for frame in source.histories():
        flat = _flat(frame, rows, about, dtype)
        lengths.append(frame["item_id"].list.len().to_numpy().astype(np.int64))
        rows += len(frame)
        seen = flat["item_id"].unique()
        unlisted.append(seen.filter(~_found(known, seen)))
        if sum(map(len, unlisted[1:])) > max(MERGE_ROWS, len(unlisted[0])):
            unlisted = [pl.concat(unlisted).unique()]
    added = pl.DataFrame({"item_id": pl.concat(unlisted).unique()})
    items = pl.concat([items, added], how="diagonal_relaxed").sort("item_id")
    offsets = np.cumsum(np.concatenate(lengths))
    np.save(folder / "offsets.npy", offsets)
    at, rows = 0, 0
    with ExitStack() as stack:
        files = {
            name: (stack.enter_context(_begin_array(folder / f"{name}.npy", dtype, int(offsets[-1]))), dtype)
            for name, dtype in _dtypes(about).items()
        }
        for frame in source.histories():
            flat = _flat(frame, rows, about, dtype)
            rows, at = rows + len(frame), at + len(flat)
            assert rows < len(offsets) and at == offsets[rows], "histories() gave other frames the second time"
            flat = flat.with_columns(items["item_id"].search_sorted(flat["item_id"]).alias("item"), ts=pl.lit(0))
            for name, (file, kind) in files.items():
                flat[name].to_numpy().astype(kind).tofile(file)
    assert rows == len(offsets) - 1, "histories() gave fewer frames the second time"
    return items


def _flat(frame: pl.DataFrame, first: int, about: About, dtype: pl.DataType) -> pl.DataFrame:
    """One row a behaviour: item_id of `dtype`, action, side columns. `first`: history_row of the frame's first row."""
    columns = ["item_id", "action", *about.side]
    sizes = frame.select(pl.col(columns).list.len())
    for name in columns:
        uneven = (sizes[name].fill_null(0) != sizes["item_id"]).fill_null(True)
        if uneven.any():
            row = int(uneven.arg_max() or 0)
            raise InputError(
                f"history {first + row}, column {name!r}: {sizes[name][row]} values for {sizes['item_id'][row]} items"
            )
    try:
        flat = frame.select(pl.col(columns).explode(empty_as_null=False))
        flat = flat.cast({"item_id": dtype, "action": pl.Int8(), **about.side})
    except pl.exceptions.PolarsError as error:
        raise InputError(f"histories from {first}: a column does not fit its kind: {one_line(error)}") from None
    if not len(flat):
        return flat
    unnamed = ~flat["action"].is_between(0, len(about.actions) - 1)
    for name, bad in [*((n, flat[n].is_null()) for n in columns), ("action", unnamed)]:
        if bad.any():
            at = int(bad.arg_max() or 0)
            row = first + int(np.searchsorted(np.cumsum(sizes["item_id"].to_numpy()), at, side="right"))
            raise InputError(
                f"history {row}, column {name!r}: {flat[name][at]!r}; it must be "
                + (f"a code from 0 to {len(about.actions) - 1}" if name == "action" else "a value")
            )
    return flat


def _found(known: pl.Series, ids: pl.Series) -> pl.Series:
    """Whether each of `ids` stands in the sorted `known`; the cost grows with `ids`, not with `known`."""
    if not len(known):
        return pl.Series(np.zeros(len(ids), np.bool_))
    place = known.search_sorted(ids).clip(0, len(known) - 1)
    return known.gather(place) == ids


def write_none(folder: Path, about: About) -> None:
    """An empty CSR, for a catalogue without users."""
    folder.mkdir(parents=True)
    np.save(folder / "offsets.npy", np.zeros(1, np.int64))
    empty_maps(folder, 0, about)


def empty_maps(folder: Path, size: int, about: About) -> dict[str, np.ndarray]:
    """Writable behaviour arrays of `size` elements by name, backed by FOLDER/NAME.npy."""
    return {name: _empty_map(folder / f"{name}.npy", dtype, size) for name, dtype in _dtypes(about).items()}


def _dtypes(about: About) -> dict[str, np.dtype]:
    base = {"item": np.dtype(np.int32), "ts": np.dtype(np.int64), "action": np.dtype(np.int8)}
    return base | {name: np.dtype(str(dtype).lower()) for name, dtype in about.side.items()}


def _begin_array(path: Path, dtype: np.dtype, size: int) -> BinaryIO:
    """An .npy file of `size` elements, open behind its header; unlike a map, what is appended leaves memory."""
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _empty_map(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    """A memory map, or, for no elements, an empty array saved at once (a file of no bytes cannot be mapped)."""
    if size:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size,))
    empty = np.empty(0, dtype)
    np.save(path, empty)
    return empty
