"""Which items of a dataset have a vector: overall, of those in the log, of what is shown, and by category."""

from typing import Any

import numpy as np
import polars as pl

from data.dataset import Dataset


def coverage(dataset: Dataset, present: np.ndarray) -> dict[str, Any]:
    """Shares of items with a vector; `present` (items,) bool by item index.

    {items, vectors, share, in_log, shown, categories: {NAME: {items, vectors, share}}}; `in_log`: of the items that
    the log knows; `shown`: of the train impressions, each by its item. None where the dataset has no such thing.
    Categories come lowest share first.
    """
    items = dataset.items()
    columns = items.collect_schema().names()
    found: dict[str, Any] = {"items": len(present), "vectors": int(present.sum()), "share": _mean(present)}
    found["in_log"] = found["shown"] = None
    if "first_seen_ts" in columns:
        seen = items.select(pl.col("first_seen_ts").is_not_null()).collect().to_series().to_numpy()
        found["in_log"] = _mean(present[seen])
    if dataset.meta["counts"]["train"]:
        times = dataset.train_counts("item")
        found["shown"] = float(times[present].sum() / times.sum())
    found["categories"] = {}
    if "category" in columns:
        category = pl.col("category").cast(pl.String).fill_null("(none)")
        table = items.select(category).collect().with_columns(vector=pl.Series(present))
        parts = table.group_by("category").agg(items=pl.len(), vectors=pl.col("vector").sum())
        parts = parts.with_columns(share=pl.col("vectors") / pl.col("items"))
        parts = parts.sort("share", "items", "category", descending=[False, True, False])
        found["categories"] = {row.pop("category"): row for row in parts.iter_rows(named=True)}
    return found


def text(found: dict[str, Any], worst: int = 5) -> list[str]:
    """The shares as lines; of the categories the `worst` that are not whole."""
    shares = [f"{found['share']:.1%}"] if found["items"] else []
    shares += [f"{found[name]:.1%} of {what}" for name, what in _PARTS.items() if found[name] is not None]
    lines = [f"coverage: {found['vectors']:,} of {found['items']:,} items; {', '.join(shares)}"]
    poor = [(name, part) for name, part in found["categories"].items() if part["share"] < 1][:worst]
    for name, part in poor:
        lines.append(f"  {name}: {part['vectors']:,} of {part['items']:,} ({part['share']:.1%})")
    return lines


_PARTS = {"in_log": "those in the log", "shown": "train impressions"}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
