"""What a prepared dataset holds, and what in it should worry its owner."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.dataset import SPLITS, Dataset
from data.images import open_images

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
POINTERS = ("user", "item", "label", "history_end", "history_row")  # not for a ranker to read as they are
CSR = ("offsets", "item", "ts")
NEW_SHARE_WARNING, MISSING_WARNING, CTR_RATIO_WARNING = 0.5, 0.5, 1.5


def inspect(root: Path) -> dict[str, Any]:
    """Figures of a prepared dataset: counts, splits, histories, missing values, images, audit, warnings."""
    dataset = Dataset(root)
    meta = dataset.meta
    found: dict[str, Any] = {key: meta[key] for key in ("source", "label", "time", "counts", "time_range", "actions")}
    found |= {"fingerprint": meta["fingerprint"], "split_rule": meta["split"], "audit": meta["audit"]}
    found |= {"rejected": meta["rejected"], "notes": meta["notes"], "columns": _columns(dataset)}
    splits = [s for s in SPLITS if meta["counts"][s]]
    train = dataset.train_counts("item") if "train" in splits else None
    found["splits"] = {split: _split(dataset, split, train) for split in splits}
    found["histories"] = _histories(dataset, splits[-1]) if splits else None
    found["missing"] = _missing(dataset)
    found["images"] = _images(dataset)
    found["warnings"] = _warnings(found)
    return found


def _columns(dataset: Dataset) -> dict[str, list[str]]:
    """Names that a recipe's features may read, by where they live."""
    return {
        "sample": [c for c in dataset.meta["sample_columns"] if c not in POINTERS],
        "user": [c for c in dataset.users().collect_schema().names() if c != "user_id"],
        "item": [c for c in dataset.items().collect_schema().names() if c != "item_id"],
        "behaviour": [c for c in dataset.meta["behavior_columns"] if c not in CSR],
    }


def _split(dataset: Dataset, split: str, train: np.ndarray | None) -> dict[str, Any]:
    rows = dataset.samples(split)
    facts = rows.select(
        pl.len().alias("rows"),
        pl.col("label").mean().alias("ctr"),
        pl.col("user").n_unique().alias("users"),
        pl.col("item").n_unique().alias("items"),
        pl.col("ts").min().alias("first"),
        pl.col("ts").max().alias("last"),
    )
    found: dict[str, Any] = facts.collect(engine="streaming").row(0, named=True)
    if train is not None and split != "train":
        shown = rows.group_by("item").len().collect(engine="streaming")
        counts, rows_of = train[shown["item"].to_numpy()], shown["len"].to_numpy()
        found["new_item_rows_share"] = float(rows_of[counts == 0].sum() / found["rows"])
        found["cold_item_rows_share"] = float(rows_of[counts < 10].sum() / found["rows"])
    return found


def _histories(dataset: Dataset, split: str) -> dict[str, Any]:
    """Lengths of the histories that the samples of a split see."""
    length = dataset.samples(split).select("history_end").collect(engine="streaming")["history_end"]
    quantiles = {f"q{round(q * 100)}": int(length.quantile(q, "nearest") or 0) for q in QUANTILES}
    action = dataset.behaviors().action
    counts = np.bincount(np.asarray(action), minlength=len(dataset.actions)) if len(action) else np.zeros(0, int)
    return {
        "split": split,
        "length": quantiles,
        "empty_share": float(np.mean(length.to_numpy() == 0)),
        "behaviors_by_action": dict(zip(dataset.actions, counts.tolist(), strict=False)),
    }


def _missing(dataset: Dataset) -> dict[str, float]:
    """Share of nulls of every column of items, users and train samples that has any."""
    tables = {"item": dataset.items(), "user": dataset.users()}
    if dataset.meta["counts"]["train"]:
        tables["sample"] = dataset.samples("train")
    shares = {}
    for name, table in tables.items():
        found = table.select(pl.all().null_count() / pl.len()).collect(engine="streaming")
        if len(found):
            shares |= {f"{name}.{c}": s for c, s in found.row(0, named=True).items() if s and np.isfinite(s)}
    return shares


def _images(dataset: Dataset) -> list[dict[str, Any]]:
    """Each image store with the share of items (and of shown items) whose picture it has."""
    found = []
    columns = dataset.items().collect_schema().names()
    for spec in dataset.meta["images"]:
        facts = {"kind": spec["kind"], "path": spec["path"], "role": spec.get("role", "item")}
        if not Path(spec["path"]).exists():
            found.append(facts | {"problem": "not there any more"})
            continue
        keys = set(open_images(spec).keys())
        facts["images"] = len(keys)
        if "image_key" in columns and facts["role"] != "query":
            items = dataset.items().select("image_key", "first_seen_ts").collect()
            has = items["image_key"].is_in(list(keys)).fill_null(False)
            facts["item_share"] = float(np.mean(has.to_numpy()))
            seen = items["first_seen_ts"].is_not_null()
            facts["seen_item_share"] = float(np.mean(has.filter(seen).to_numpy()))
        found.append(facts)
    return found


def _warnings(found: dict[str, Any]) -> list[str]:
    splits, warnings = found["splits"], []
    if {"train", "test"} <= splits.keys():
        before, after = splits["train"]["ctr"], splits["test"]["ctr"]
        if before and after and max(before / after, after / before) > CTR_RATIO_WARNING:
            warnings.append(f"the label rate is {before:.4f} in train and {after:.4f} in test: calibration will be off")
    for split, facts in splits.items():
        if facts["ctr"] in (0.0, 1.0):
            warnings.append(f"split {split} has one class only: no AUC")
        if facts.get("new_item_rows_share", 0) > NEW_SHARE_WARNING:
            warnings.append(f"{facts['new_item_rows_share']:.0%} of {split} rows show items without a train row")
    if found["histories"] and found["histories"]["empty_share"] > MISSING_WARNING:
        warnings.append(f"{found['histories']['empty_share']:.0%} of histories are empty")
    warnings += [
        f"column {c} is null in {s:.0%} of its rows"
        for c, s in found["missing"].items()
        if s > MISSING_WARNING and c != "item.first_seen_ts"
    ]
    for images in found["images"]:
        if "problem" in images:
            warnings.append(f"image store {images['path']}: {images['problem']}")
        elif images.get("seen_item_share", 1.0) < MISSING_WARNING:
            warnings.append(f"only {images['seen_item_share']:.0%} of the items in the log have a picture")
    if found["counts"]["rejected"]:
        warnings.append(f"{found['counts']['rejected']:,} raw rows were rejected (rejected.parquet)")
    return warnings


def text(found: dict[str, Any]) -> str:
    """The figures, readable."""
    counts = ", ".join(f"{n:,} {name}" for name, n in found["counts"].items() if name not in SPLITS)
    lines = [f"dataset {found['source']} ({found['fingerprint'][:12]}): {counts}"]
    lines.append(f"label: {found['label']}; time: {found['time']}; split: {found['split_rule']['rule']}")
    for split, f in found["splits"].items():
        line = (
            f"  {split:<6}{f['rows']:>12,} rows  label rate {f['ctr']:.4f}  {f['users']:,} users  {f['items']:,} items"
        )
        if "new_item_rows_share" in f:
            line += f"  rows of new items {f['new_item_rows_share']:.1%}, cold {f['cold_item_rows_share']:.1%}"
        lines.append(line)
    if found["histories"]:
        h = found["histories"]
        lengths = ", ".join(f"{name} {n:,}" for name, n in h["length"].items())
        lines.append(f"histories ({h['split']}): {lengths}; empty {h['empty_share']:.1%}")
        lines.append("behaviours: " + (", ".join(f"{a} {n:,}" for a, n in h["behaviors_by_action"].items()) or "none"))
    columns = [*found["columns"]["sample"], *(f"{e}.{c}" for e in ("user", "item") for c in found["columns"][e])]
    if found["splits"]:
        lines.append(f"columns for recipes: user, item, {', '.join(columns)}")
        lines.append(f"columns of behaviours: {', '.join([*found['columns']['behaviour'], 'age', 'position'])}")
    for images in found["images"]:
        share = f", {images['seen_item_share']:.1%} of the items in the log" if "seen_item_share" in images else ""
        lines.append(f"images ({images['role']}): {images.get('problem', format(images.get('images', 0), ','))}{share}")
    if found["missing"]:
        lines.append("null: " + ", ".join(f"{c} {s:.1%}" for c, s in found["missing"].items()))
    lines += [f"  rejected {n:,}: {reason}" for reason, n in found["rejected"].items()]
    lines.append(f"audit: {len(found['audit'])} checks passed")
    lines += [f"  note: {note}" for note in found["notes"]]
    lines += [f"  warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)
