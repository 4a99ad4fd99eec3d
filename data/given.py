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

    def histories(self) -> Iterator[pl.DataFrame] | None:
        """Frames in order of history_row with list columns `item_id`, `action` and the side columns, oldest first.

        None: the log's own events are the behaviours.
        """
        ...


def write_given(
    folder: Path, about: About, items: pl.DataFrame, histories: Iterator[pl.DataFrame] | None
) -> pl.DataFrame:
    """Write the CSR of ready-made histories (ts 0: their times are unknown) and return the catalogue plus
    the items that only histories know. `histories` None writes an empty CSR."""
    folder.mkdir(parents=True)
    frames = list(histories) if histories is not None else []
    lengths = [f["item_id"].list.len().to_numpy() for f in frames]
    flat = [f.explode("item_id", "action", *about.side).drop_nulls("item_id") for f in frames]
    if flat:
        seen = pl.concat([f["item_id"].unique() for f in flat]).unique()
        if len(items):
            seen = seen.cast(items.schema["item_id"])
        unlisted = seen.filter(~seen.is_in(items["item_id"].implode())) if len(items) else seen
        items = pl.concat([items, pl.DataFrame({"item_id": unlisted})], how="diagonal_relaxed").sort(
            "item_id"
        )
    index = items.select("item_id").with_row_index("item")
    every = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
    np.save(folder / "offsets.npy", np.concatenate(([0], np.cumsum(every))).astype(np.int64))
    joined = (
        pl.concat([f.join(index, on="item_id", how="left", maintain_order="left") for f in flat])
        if flat
        else None
    )
    size = len(joined) if joined is not None else 0
    columns: dict[str, np.dtype] = {"item": np.dtype(np.int32), "action": np.dtype(np.int8)}
    columns |= {name: np.dtype(str(dtype).lower()) for name, dtype in about.side.items()}
    for name, dtype in columns.items():
        values = joined[name].to_numpy() if joined is not None else np.empty(0)
        np.save(folder / f"{name}.npy", values.astype(dtype))
    np.save(folder / "ts.npy", np.zeros(size, np.int64))
    return items
