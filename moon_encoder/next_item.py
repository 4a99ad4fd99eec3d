"""Next-item union recall: is the next click among the nearest neighbours of what the user did last?

The neighbours of each of the last L behaviours are put together; a hit if the clicked item is in the union. Used where
users search without pictures (MUSE and its siblings). Read it beside the union's share of the gallery: that is what
chance would reach.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from data.dataset import Dataset
from moon_encoder.search import Picked, Vectors, neighbours

NEIGHBOURS, LENGTH = 10, 50
BLOCK = 2048  # clicks


@dataclass(frozen=True)
class Clicks:
    """Q clicks with what their user did before.

    Attributes:
        user, item: (Q,) int64.
        offsets: (Q + 1,) int64; behaviours[offsets[q]:offsets[q + 1]] are the last items before click q.
    """

    user: np.ndarray
    item: np.ndarray
    offsets: np.ndarray
    behaviours: np.ndarray


@dataclass(frozen=True)
class UnionRecall:
    """hit: (Q,) bool. size: (Q,) int64 items in the union."""

    hit: np.ndarray
    size: np.ndarray


def clicks(dataset: Dataset, split: str, allowed: np.ndarray, limit: int, length: int = LENGTH) -> Clicks:
    """At most `limit` positive samples of a split (drawn by seed 0) of `allowed` items (items,) bool with a history."""
    columns = dataset.meta["sample_columns"]
    row = "history_row" if "history_row" in columns else "user"
    rows = (
        dataset.samples(split)
        .filter(pl.col("label") == 1, pl.col("history_end") > 0)
        .select("user", "item", "history_end", pl.col(row).alias("row"))
        .collect(engine="streaming")
        .filter(pl.col("item").map_batches(lambda s: pl.Series(allowed[s.to_numpy()]), return_dtype=pl.Boolean))
    )
    kept = np.sort(np.random.default_rng(0).permutation(len(rows))[:limit])
    user, item, end, row = (rows[name].to_numpy()[kept].astype(np.int64) for name in rows.columns)
    behaviors = dataset.behaviors()
    count = np.minimum(end, length)
    first = behaviors.offsets[row] + end - count
    offsets = np.concatenate([[0], np.cumsum(count)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1], count) + np.repeat(first, count)
    return Clicks(user, item, offsets, behaviors.item[at].astype(np.int64))


def union_recall(
    clicked: Clicks,
    gallery: Vectors,
    k: int = NEIGHBOURS,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda clicks: None,
) -> UnionRecall:
    """Whether each click is in the union of the `k` neighbours (of other items) of the behaviours before it."""
    sources = np.unique(clicked.behaviours)
    sources = sources[gallery.present[sources]]
    near, _ = neighbours(Picked(gallery, sources), gallery, k, own=sources, device=device)
    place = np.full(len(gallery), len(sources))
    place[sources] = np.arange(len(sources))
    near = np.concatenate([near, np.full((1, k), -1)])  # a behaviour without a vector has no neighbours
    hit, size = np.zeros(len(clicked.item), bool), np.zeros(len(clicked.item), np.int64)
    for start in range(0, len(hit), BLOCK):
        stop = min(start + BLOCK, len(hit))
        lo, hi = clicked.offsets[start], clicked.offsets[stop]
        click = np.repeat(np.arange(stop - start), np.diff(clicked.offsets[start : stop + 1]))
        click, found = np.repeat(click, k), near[place[clicked.behaviours[lo:hi]]].ravel()
        click, found = click[found >= 0], found[found >= 0]
        pairs = np.unique(click * len(gallery) + found)
        click, found = pairs // len(gallery), pairs % len(gallery)
        size[start:stop] = np.bincount(click, minlength=stop - start)
        hits = click[found == clicked.item[start + click]]
        hit[start + hits] = True
        progress(stop - start)
    return UnionRecall(hit, size)
