"""A prepared MovieLens dataset as the files that the peers' own loaders read."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from data.dataset import SPLITS, Dataset


def write_rows(dataset: Dataset, folder: Path) -> None:
    """train, valid and test, the users' liked items and the item table, each as one parquet file; row 0 is padding.

    The rows and the history of each row are those of the shipped DIN recipe: the liked items strictly before it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    liked = dataset.meta["actions"].index("liked")
    behaviors = dataset.behaviors()
    keep = np.asarray(behaviors.action) == liked
    before = np.concatenate(([0], np.cumsum(keep)))
    starts = before[behaviors.offsets]
    items = np.asarray(behaviors.item)[keep] + 1
    sequences = [items[a:b] for a, b in pairwise(starts)]
    pl.DataFrame({"full_item_seq": sequences}, schema={"full_item_seq": pl.List(pl.Int64)}).write_parquet(
        folder / "users.parquet"
    )
    for split in SPLITS:
        rows = dataset.samples(split).collect()
        user = rows["user"].to_numpy()
        length = before[behaviors.offsets[user] + rows["history_end"].to_numpy()] - starts[user]
        columns = {"user_index": user, "item_index": rows["item"] + 1, "seq_len": length, "user": user + 1}
        pl.DataFrame({**columns, "label": rows["label"]}).cast(pl.Int64).write_parquet(folder / f"{split}.parquet")
    sizes = _write_items(dataset, folder / "items.parquet")
    (folder / "sizes.json").write_text(json.dumps({"user": len(sequences) + 1, **sizes}))


def _write_items(dataset: Dataset, path: Path) -> dict[str, int]:
    catalogue = dataset.items().select("genres", "year").collect()
    names = catalogue["genres"].explode().drop_nulls().unique().sort()
    per_item = int(catalogue["genres"].list.len().max() or 1)  # pyright: ignore[reportArgumentType]
    code = {name: row + 1 for row, name in enumerate(names)}
    genres = [[code[g] for g in row or []] for row in catalogue["genres"].to_list()]
    years = catalogue["year"].fill_null(0).rank("dense").cast(pl.Int64)
    table = pl.DataFrame(
        {
            "item_index": np.arange(len(catalogue) + 1),
            "item": np.arange(len(catalogue) + 1),
            "year": [0, *years],
            "genres": [[0] * per_item, *(row + [0] * (per_item - len(row)) for row in genres)],
        }
    )
    table.write_parquet(path)
    return {
        "item": len(table),
        "year": int(years.max()) + 1,  # pyright: ignore[reportArgumentType]
        "genres": len(names) + 1,
        "genres_per_item": per_item,
    }
