"""The rows on which rankers differ: new, cold, popularity, history length, category, merchant size."""

import numpy as np
import polars as pl

from data.dataset import Dataset

COLD_BELOW = 10
HEAD_SHARE, TORSO_SHARE = 0.5, 0.9
TOP_CATEGORIES = 10


def popularity(train_counts: np.ndarray) -> np.ndarray:
    """0 head, 1 torso, 2 tail for every item: by falling train impressions, head items hold the first half of all
    train impressions, torso items the next 40 %, tail items the rest (and items without any)."""
    order = np.argsort(-train_counts, kind="stable")
    counts = train_counts[order]
    before = np.cumsum(counts) - counts
    shares = before / max(1, counts.sum())
    level = np.searchsorted([HEAD_SHARE, TORSO_SHARE], shares, side="right")
    level[counts == 0] = 2
    out = np.empty(len(order), np.int64)
    out[order] = level
    return out


def slices(dataset: Dataset, rows: pl.DataFrame) -> dict[str, np.ndarray]:
    """Masks (n,) by name for rows with `item` and `history_end`, in their order.

    new_items: no train row. cold_items: fewer than 10. head/torso/tail: see `popularity`. history_*: behaviours
    before the sample. category_*: the largest categories among the rows. small_sellers: the sellers that together
    hold the last tenth of train impressions, where items have a seller.
    """
    item = rows["item"].to_numpy()
    counts = dataset.train_counts("item")
    count, level = counts[item], popularity(counts)[item]
    masks = {
        "new_items": count == 0,
        "cold_items": count < COLD_BELOW,
        "head_items": level == 0,
        "torso_items": level == 1,
        "tail_items": level == 2,
    }
    history = rows["history_end"].to_numpy()
    for low, high in ((0, 0), (1, 9), (10, 49), (50, None)):
        name = f"history_{low}" if high == low else f"history_{low}_{high}" if high else f"history_{low}_up"
        masks[name] = (history >= low) & (history <= (high if high is not None else history))
    items = dataset.items()
    columns = items.collect_schema().names()
    if "category" in columns:
        category = items.select("category").collect()["category"].cast(pl.String).gather(item)
        for name in category.drop_nulls().value_counts(sort=True)["category"].head(TOP_CATEGORIES):
            masks[f"category_{name}"] = (category == name).fill_null(False).to_numpy()
    if "seller" in columns:
        seller = items.select(pl.col("seller").cast(pl.String).rank("dense")).collect()["seller"]
        index = seller.fill_null(0).to_numpy().astype(np.int64)
        size = popularity(np.bincount(index, counts).astype(np.int64))
        masks["small_sellers"] = (size[index] == 2)[item] & (index[item] > 0)
    return masks
