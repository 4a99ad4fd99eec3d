"""`moon prepare SOURCE --root DIR --out DIR`: raw logs and catalogues -> a prepared dataset."""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from data import timeline
from data.arrays import open_array
from data.audit import audit
from data.column_map import ColumnMap
from data.dataset import SCHEMA_VERSION, SPLITS, Dataset
from data.errors import InputError
from data.exchange import exchange
from data.fields import ShowFields
from data.files import naming_a_full_disk
from data.given import GivenHistories, write_given, write_none
from data.pairs import searched, write_pairs
from data.queries import write_queries
from data.source import Source
from data.sources import open_source, source_names
from data.spill import Spilled, buckets, spill, time_of_share
from data.validate import Rejections

NEVER = -1


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon prepare", description="Turn raw logs into a prepared dataset.")
    parser.add_argument("source", help=f"one of: {', '.join(source_names())}")
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the prepared dataset (replaced when done)")
    parser.add_argument("--columns", type=Path, help="YAML column map (source tabular)")
    parser.add_argument("--fields", action=ShowFields, model=ColumnMap, help="show every field of a column map")
    parser.add_argument("--policy", help="logging policy to read (source open_bandit)")
    parser.add_argument("--max-rejected", type=float, default=0.01, help="largest share of bad rows (default 0.01)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    started = time.monotonic()
    source = open_source(args.source, args.root, columns=args.columns, policy=args.policy)
    meta = prepare(source, args.out, args.max_rejected)
    figures = {
        "counts": meta["counts"],
        "fingerprint": meta["fingerprint"],
        "seconds": time.monotonic() - started,
    }
    for name, number in meta["counts"].items():
        print(f"{name:>10} {number:>12,}")
    for reason, number in meta["rejected"].items():
        print(f"  rejected {number:,}: {reason}")
    print(f"{args.out}: {meta['source']}, {figures['seconds']:.1f} s, audit: {len(meta['audit'])} checks passed")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def prepare(source: Source, out: Path, max_rejected: float = 0.01) -> dict:
    """Build the prepared dataset beside `out` and publish it by rename; returns dataset.json.

    Memory is bounded by a bucket of rows plus the entities (users, items), not by the log.
    Raises InputError for bad input; OSError (with `out` untouched) if the disk is full.
    """
    if not 0 <= max_rejected <= 1:
        raise InputError(f"--max-rejected {max_rejected:g}: give a share from 0 to 1")
    if out.exists() and not (out / "dataset.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is no prepared dataset; give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.with_name(f".{out.name}.building-{os.getpid()}")
    try:
        with naming_a_full_disk(out):
            building.mkdir()
            meta = _build(source, building, max_rejected)
            _publish(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return meta


def _build(source: Source, root: Path, max_rejected: float) -> dict:
    about, rejections = source.about, Rejections(max_rejected)
    scratch = root / "scratch"
    scratch.mkdir()
    items, notes = _catalogue(source), list(about.notes)
    counts = dict.fromkeys(SPLITS, 0)
    if about.split.rule == "none":
        spilled, users, split_cuts, span = None, _users(source, None), None, None
        write_none(root / "behaviors", about)
    else:
        spilled = spill(source, scratch, rejections)
        items = _with_unlisted(items, spilled.items)
        users = _users(source, spilled.users)
        given = isinstance(source, GivenHistories)
        if given:
            listed = len(items)
            items = write_given(root / "behaviors", about, items, source)
            notes.append(f"{len(items) - listed:,} of {len(items):,} items stand in histories only")
        files, entities, seen, span = _order(spilled, scratch, users, items, rejections)
        rejections.check()
        items = items.with_columns(pl.Series("first_seen_ts", seen).replace(NEVER, None))
        split_cuts = None
        if about.split.rule == "temporal":
            first, second = (
                time_of_share(spilled.spans, s) for s in (about.split.train, about.split.train + about.split.valid)
            )
            split_cuts = about.split.cuts or (first, second)
        assign = timeline.split_rule(about.split, split_cuts)
        counts = timeline.walk(files, root, about, entities, assign, given)
        empty = [s for s, n in counts.items() if not n]
        if empty:
            raise InputError(
                f"split {empty[0]!r} would be empty under rule {about.split.rule!r} "
                f"(rows: {counts}); give more rows or other shares"
            )
    shutil.rmtree(scratch)
    items.write_parquet(root / "items.parquet")
    users.write_parquet(root / "users.parquet")
    rejections.write(root / "rejected.parquet")
    behaviors = open_array(root / "behaviors" / "item.npy")
    meta = {
        "schema_version": SCHEMA_VERSION,
        "source": about.name,
        "label": about.label,
        "actions": list(about.actions),
        "time": about.time,
        "counts": {"users": len(users), "items": len(items), "behaviors": len(behaviors)}
        | dict(counts)
        | {"rejected": sum(rejections.counts.values())},
        "time_range": span,
        "split": about.split.model_copy(update={"cuts": split_cuts}).model_dump(),
        "images": list(about.images),
        "rejected": rejections.counts,
        "notes": notes + list(getattr(source, "findings", [])),
        "sample_columns": _sample_columns(root),
        "behavior_columns": {p.stem: str(open_array(p).dtype) for p in sorted((root / "behaviors").glob("*.npy"))},
        "item_columns": {name: str(dtype) for name, dtype in items.schema.items()},
    }
    (root / "dataset.json").write_text(json.dumps(meta, indent=1))
    meta["pairs"] = write_pairs(Dataset(root), source)
    if searched(Dataset(root)):
        meta["counts"]["searches"] = write_queries(Dataset(root))
    meta["fingerprint"] = _fingerprint(root)
    (root / "dataset.json").write_text(json.dumps(meta, indent=1))
    findings = audit(Dataset(root))
    if findings.problems:
        raise InputError(f"the prepared dataset failed its audit: {findings.problems[0]}")
    meta["audit"] = findings.passed
    (root / "dataset.json").write_text(json.dumps(meta, indent=1))
    return meta


def _catalogue(source: Source) -> pl.DataFrame:
    """Items sorted by id; duplicate ids are an error."""
    items = source.items()
    twice = items.filter(pl.col("item_id").is_duplicated())
    if len(twice):
        row = int(items.with_row_index("_r").filter(pl.col("item_id") == twice["item_id"][0])["_r"][1])
        raise InputError(
            f"catalogue row {row}, column 'item_id': {twice['item_id'][0]!r} stands there twice; ids must be unique"
        )
    return items.sort("item_id")


def _with_unlisted(items: pl.DataFrame, seen: pl.Series) -> pl.DataFrame:
    """The catalogue plus a row of nulls for every item that only the log knows."""
    if len(items) and items.schema["item_id"].is_integer() != seen.dtype.is_integer():
        raise InputError(
            f"column 'item_id' is {items.schema['item_id']} in the catalogue and {seen.dtype} in the log; "
            "make them the same"
        )
    seen = seen.cast(items.schema["item_id"]) if len(items) else seen
    unlisted = seen.filter(~seen.is_in(items["item_id"].implode()))
    return pl.concat([items, pl.DataFrame({"item_id": unlisted})], how="diagonal_relaxed").sort("item_id")


def _users(source: Source, seen: pl.Series | None) -> pl.DataFrame:
    """Users sorted by id: those of the log, with the columns of the user table."""
    table = source.users()
    if seen is None:
        return table.sort("user_id") if table is not None else pl.DataFrame({"user_id": pl.Series([], dtype=pl.Int64)})
    users = pl.DataFrame({"user_id": seen})
    if table is None:
        return users
    if table["user_id"].is_duplicated().any():
        raise InputError("user table, column 'user_id': an id stands there twice; ids must be unique")
    return users.join(table.with_columns(pl.col("user_id").cast(seen.dtype)), on="user_id", how="left").sort("user_id")


def _order(
    spilled: Spilled, scratch: Path, users: pl.DataFrame, items: pl.DataFrame, rejections: Rejections
) -> tuple[list[Path], timeline.Entities, np.ndarray, dict[str, int]]:
    """Bucket files with user/item indices in order of (ts, user, item), without duplicate rows; and the totals."""
    index = {
        "user": users.lazy().select(pl.col("user_id").alias("_user_id")).with_row_index("user"),
        "item": items.lazy().select(pl.col("item_id").alias("_item_id")).with_row_index("item"),
    }
    samples, behaves = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
    first_seen = np.full(len(items), np.iinfo(np.int64).max)
    files, total, last, first = [], 0, NEVER, None
    for rows in buckets(spilled):
        rows = (
            rows.lazy()
            .join(index["user"], left_on="user_id", right_on="_user_id", how="left")
            .join(index["item"], left_on="item_id", right_on="_item_id", how="left")
            .with_columns(pl.col("user", "item").cast(pl.Int32))
            .sort("ts", "user", "item", "_place")
            .collect()
        )
        keys = [c for c in ("ts", "user", "item", "sample", "action", "request_id", "position") if c in rows.columns]
        doubled = ~pl.struct(keys).is_first_distinct()
        _reject_repeats(rows.filter(doubled).drop("user", "item"), spilled, rejections)
        rows = rows.filter(~doubled).drop("_place")
        samples += np.bincount(rows["user"].filter(rows["sample"]).to_numpy(), minlength=len(users))
        behaves += np.bincount(rows["user"].filter(rows["action"].is_not_null()).to_numpy(), minlength=len(users))
        np.minimum.at(first_seen, rows["item"].to_numpy(), rows["ts"].to_numpy())
        files.append(scratch / f"bucket-{len(files):06d}.parquet")
        rows.drop("user_id", "item_id").write_parquet(files[-1], compression="lz4")
        total, first, last = total + len(rows), rows["ts"][0] if first is None else first, rows["ts"][-1]
    for run in spilled.runs:
        run.unlink()
    first_seen[first_seen == np.iinfo(np.int64).max] = NEVER
    entities = timeline.Entities(samples, behaves, len(items), total)
    return files, entities, first_seen, {"first": int(first or 0), "last": int(last)}


def _reject_repeats(repeats: pl.DataFrame, spilled: Spilled, rejections: Rejections) -> None:
    chunk = spilled.chunk_of(repeats["_place"].to_numpy())
    for number in np.unique(chunk):
        place, file, row = spilled.chunks[number]
        rows = repeats.filter(chunk == number).sort("_place").with_columns(_row=pl.col("_place") - place + row)
        reason = "duplicate of an earlier row (same user, item, ts)"
        rejections.record(rows.drop("_place"), reason, "ts", file)


MEANINGS = {
    "ts": "Unix seconds of the impression",
    "user": "row of users.parquet",
    "item": "row of items.parquet",
    "label": "1 positive, 0 negative",
    "history_end": "behaviours of the user strictly before ts: offsets[row] + [0, history_end)",
    "history_row": "row of the behaviour CSR that holds this sample's history (absent: the user)",
    "item_impressions": "train rows of the item strictly before ts",
    "item_positives": "positive train rows of the item strictly before ts",
    "user_impressions": "train rows of the user strictly before ts",
    "user_positives": "positive train rows of the user strictly before ts",
    "request_id": "rows of one request share it",
    "position": "slot in which the item was shown, from 1",
    "query": "text of the search",
    "query_image": "picture of the search: key in an image store of role query",
    "propensity": "probability that the logging policy shows this item in this slot",
}


def _sample_columns(root: Path) -> dict[str, dict[str, str]]:
    files = sorted((root / "samples").glob("*/part-*.parquet"))
    if not files:
        return {}
    schema = pl.read_parquet_schema(files[0])
    return {
        name: {"dtype": str(dtype), "meaning": MEANINGS.get(name, "context column of the source")}
        for name, dtype in schema.items()
    }


def _fingerprint(root: Path) -> str:
    """sha256 over names and bytes of all content files, in order of their names."""
    digest = hashlib.sha256()
    for path in _content(root):
        digest.update(str(path.relative_to(root)).encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _content(root: Path) -> Iterable[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name != "dataset.json")


def _publish(building: Path, out: Path) -> None:
    """Swap the finished dataset in atomically: a crash leaves the old one or the new one."""
    for path in _content(building):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if not out.exists():
        building.rename(out)
        return
    exchange(building, out)
    print(f"{out}: replaced the dataset that was there", file=sys.stderr)
