"""What a representation store holds: versions, coverage, the geometry of its vectors, neighbours, and what is wrong."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.dataset import Dataset
from features import coverage
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store, Version, version_folder, version_numbers

SAMPLE = 4096  # vectors for the figures
SHOWN, NEIGHBOURS = 5, 4
BLOCK = 1 << 16  # rows read at once
COLLAPSED, LOW_RANK_SHARE, LOW_COVERAGE = 0.9, 0.1, 0.9


def inspect(root: Path, data: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Figures of a store's newest version on a sample of its vectors; `data`: the dataset, for titles and coverage.

    mean_cosine: of pairs of different items; 1 means that all vectors are the same (collapse).
    effective_rank: exp of the entropy of the normalised singular values (Roy and Vetterli 2007), at most the dim.
    """
    version = Store(root).current
    found: dict[str, Any] = {"store": str(root), "versions": _versions(root)}
    found["meta"] = {name: value for name, value in version.meta.items() if name != "columns"}
    there = np.flatnonzero(version.present)
    rows = np.sort(np.random.default_rng(seed).permutation(there)[:SAMPLE])
    vectors = version.vectors(rows)[0]
    norms = np.linalg.norm(vectors, axis=1)
    names = ("min", "q1", "median", "q99", "max")
    quantiles = np.quantile(norms, [0, 0.01, 0.5, 0.99, 1]).tolist() if len(rows) else []
    found["sample"], found["norm"] = len(rows), dict(zip(names, quantiles, strict=False))
    dims = sorted({*version.meta["matryoshka"], version.meta["dim"]})
    found["prefixes"] = {dim: _geometry(vectors[:, :dim]) for dim in dims} if len(rows) > 1 else {}
    found["neighbours"] = neighbours(version, rows[:: max(len(rows) // SHOWN, 1)][:SHOWN], NEIGHBOURS)
    problems = version.folder / "problems.parquet"
    found["problems"] = pl.scan_parquet(problems).select(pl.len()).collect().item() if problems.is_file() else None
    found["coverage"] = None
    if data is not None:
        _with_dataset(found, version, Dataset(data))
    found["warnings"] = _warnings(found)
    return found


def _versions(root: Path) -> list[dict[str, Any]]:
    found = []
    for number in version_numbers(root):
        folder = version_folder(root, number)
        try:
            version, published = Version(folder), int(folder.stat().st_mtime)
        except FileNotFoundError:
            continue  # a writer has just removed it, the oldest
        facts = {name: version.meta[name] for name in ("encoder", "dim", "dtype", "items", "vectors", "coverage")}
        found.append({"number": number, "published": published, **facts})
    return found


def _geometry(vectors: np.ndarray) -> dict[str, float]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    n = len(unit)
    mean = float((np.square(unit.sum(0, dtype=np.float64)).sum() - n) / (n * (n - 1)))
    share = np.linalg.svd(unit, compute_uv=False).astype(np.float64)
    share = share[share > 0] / share.sum()
    return {"mean_cosine": mean, "effective_rank": float(np.exp(-(share * np.log(share)).sum()))}


def neighbours(version: Version, rows: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The `count` nearest rows of some rows (n,), by cosine over the whole store; a row is not its own neighbour.

    -> [{row, item_id, nearest: [{row, cosine, item_id}]}]; item_id is None in a store without ids.
    """
    query = _unit(version.vectors(rows)[0])
    best = np.full((len(rows), count), -np.inf)
    at = np.full((len(rows), count), -1)
    for start in range(0, len(version.present), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(version.present)))
        cosine = query @ _unit(version.vectors(block)[0]).T
        cosine[:, ~version.present[block]] = -np.inf
        cosine[rows[:, None] == block] = -np.inf
        both, places = np.concatenate([best, cosine], 1), np.concatenate([at, np.tile(block, (len(rows), 1))], 1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :count]
        best, at = np.take_along_axis(both, order, 1), np.take_along_axis(places, order, 1)
    named = version.meta["ids"] is not None
    found = []
    for row, near, cosines in zip(rows, at, best, strict=True):
        nearest = [{"row": int(r), "cosine": float(c)} for r, c in zip(near, cosines, strict=True) if np.isfinite(c)]
        found.append({"row": int(row), "nearest": nearest})
    for entry in [e for item in found for e in (item, *item["nearest"])]:
        entry["item_id"] = version.item_ids[entry["row"]] if named else None
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _with_dataset(found: dict[str, Any], version: Version, dataset: Dataset) -> None:
    """Coverage of the dataset's items, and titles."""
    items = dataset.items().collect()
    rows = np.arange(len(items))
    if version.meta["dataset_fingerprint"] != dataset.fingerprint:
        rows = ItemRows(version).find(items["item_id"])
    known = (rows != UNKNOWN) & (rows < len(version.present))
    present = np.zeros(len(items), bool)
    present[known] = version.present[rows[known]]
    found["coverage"] = coverage.coverage(dataset, present)
    found["same_dataset"] = version.meta["dataset_fingerprint"] == dataset.fingerprint
    if "title" in items.columns:
        item_of = {int(row): item for item, row in enumerate(rows) if known[item]}
        for entry in [e for item in found["neighbours"] for e in (item, *item["nearest"])]:
            if entry["row"] in item_of:
                entry["title"] = items["title"][item_of[entry["row"]]]


def _warnings(found: dict[str, Any]) -> list[str]:
    warnings, dim = [], found["meta"]["dim"]
    whole = found["prefixes"].get(dim)
    if whole and whole["mean_cosine"] > COLLAPSED:
        warnings.append(f"mean pairwise cosine {whole['mean_cosine']:.3f}: collapsed, neighbours mean little")
    if whole and whole["effective_rank"] < LOW_RANK_SHARE * min(dim, found["sample"]):
        warnings.append(f"effective rank {whole['effective_rank']:.1f} of {dim}: most dimensions say nothing")
    if found["meta"]["coverage"] < LOW_COVERAGE:
        told = f" ({found['problems']:,} notes in problems.parquet)" if found["problems"] else ""
        warnings.append(f"{1 - found['meta']['coverage']:.1%} of the items have no vector{told}")
    if found["coverage"] is not None and not found["same_dataset"]:
        warnings.append("the store was made for another preparation of the dataset; rows are found by item id")
    if len({v["encoder"] for v in found["versions"]}) > 1:
        warnings.append("the versions are of different encoders; a ranker must be trained and served with one of them")
    return warnings


def text(found: dict[str, Any]) -> str:
    """The figures, readable."""
    meta = found["meta"]
    lines = [f"store {found['store']}: version {found['versions'][-1]['number']}, {meta['dim']} x {meta['dtype']}"]
    made = f" of {meta['content']}" if "content" in meta else ""
    lines.append(f"vectors{made} by {meta['encoder']}; prefixes {', '.join(map(str, found['prefixes'])) or 'unknown'}")
    for v in found["versions"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(v["published"]))
        lines.append(
            f"  v{v['number']}  {when}  {v['encoder']}  {v['dim']} x {v['dtype']}  "
            f"{v['vectors']:,} of {v['items']:,} items ({v['coverage']:.1%})"
        )
    if found["coverage"] is not None:
        lines += coverage.text(found["coverage"])
    if found["norm"]:
        lines.append("norm: " + ", ".join(f"{name} {value:.4f}" for name, value in found["norm"].items()))
    for dim, figures in found["prefixes"].items():
        lines.append(
            f"  {dim} dims: mean pairwise cosine {figures['mean_cosine']:.4f}, "
            f"effective rank {figures['effective_rank']:.1f} ({found['sample']:,} vectors)"
        )
    for item in found["neighbours"]:
        near = "; ".join(f"{_named(n)} {n['cosine']:.3f}" for n in item["nearest"])
        lines.append(f"  near {_named(item)}: {near}")
    lines += [f"  warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _named(entry: dict[str, Any]) -> str:
    name = entry.get("title") or (f"item {entry['item_id']}" if entry["item_id"] is not None else f"row {entry['row']}")
    return name if len(name) <= 40 else name[:39] + "…"
