"""Surprise of a behaviour: its label minus the rate of its item as it was known at that moment.

`label - (item_positives + STRENGTH * prior) / (item_impressions + STRENGTH)`, with the point-in-time counts of the
behaviour's own sample (train rows strictly before it) and the rate of the train split as prior: positive for an item
liked against expectation, negative for one disliked. It knows nothing that came after the behaviour.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from data.arrays import open_array
from data.dataset import SPLITS, Behaviors, Dataset
from data.errors import InputError

STRENGTH = 10.0
COLUMN = "surprise"
NEEDED = ("item_impressions", "item_positives")
CHUNK_ROWS = 1 << 22


def surprises(dataset: Dataset, behaviors: Behaviors) -> np.ndarray:
    """Surprise (N,) float32 of every behaviour; 0 for one that is no sample of the log.

    Computed once, chunk by chunk, and kept beside the behaviours. Raises InputError where samples have no counts.
    """
    if COLUMN in behaviors.side:
        return behaviors.side[COLUMN]
    if behaviors.root is None:
        raise InputError(f"behaviours held in memory need a side column {COLUMN!r}")
    path = behaviors.root / f"derived-{COLUMN}.npy"
    if not path.exists():
        _write(path, dataset, behaviors)
    return open_array(path)


def _write(path: Path, dataset: Dataset, behaviors: Behaviors) -> None:
    absent = [name for name in NEEDED if name not in dataset.meta["sample_columns"]]
    if absent or "history_row" in dataset.meta["sample_columns"]:
        reason = f"samples have no column {absent[0]!r}" if absent else "behaviours come ready-made, not from samples"
        raise InputError(f"{dataset.root}: {COLUMN!r} of a behaviour cannot be known: {reason}")
    counts = dataset.samples("train").select(pl.col("label").cast(pl.Float64).mean()).collect(engine="streaming")
    prior = float(counts["label"][0])
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    os.close(handle)
    out = np.lib.format.open_memmap(name, mode="w+", dtype=np.float32, shape=behaviors.item.shape)
    for split in SPLITS:
        if not dataset.meta["counts"][split]:
            continue
        wanted = dataset.samples(split).select("user", "item", "ts", "history_end", "label", *NEEDED)
        for start in range(0, dataset.meta["counts"][split], CHUNK_ROWS):
            frame = wanted.slice(start, CHUNK_ROWS).collect(engine="streaming")
            shown, liked = (frame[name].to_numpy().astype(np.float64) for name in NEEDED)
            expected = (liked + STRENGTH * prior) / (shown + STRENGTH)
            place, found = own_behaviour(behaviors, frame)
            out[place[found]] = (frame["label"].to_numpy() - expected)[found]
    out.flush()
    del out
    os.replace(name, path)


def own_behaviour(behaviors: Behaviors, samples: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(place in the behaviour arrays, whether there is one) of the behaviour that each sample became.

    A sample's history ends before its `ts`; its own behaviour is among those of that very second, ordered by item.
    """
    user, item, ts = (samples[name].to_numpy().astype(np.int64) for name in ("user", "item", "ts"))
    place = np.asarray(behaviors.offsets[user]) + samples["history_end"].to_numpy().astype(np.int64)
    end = np.asarray(behaviors.offsets[user + 1])
    found = np.zeros(len(place), bool)
    open_ = np.flatnonzero(place < end)
    while len(open_):
        same = behaviors.item[place[open_]] == item[open_]
        here = behaviors.ts[place[open_]] == ts[open_]
        found[open_[same & here]] = True
        open_ = open_[here & ~same]
        place[open_] += 1
        open_ = open_[place[open_] < end[open_]]
    return place, found
