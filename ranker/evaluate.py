"""Scoring a split and judging the scores; `moon eval`."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from torch import nn

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_parquet
from data.host import keep_freed_memory, peak_rss_bytes
from features.loader import Loader
from features.ranks import Ranks
from features.samples import SampleEncoder
from features.vector_source import named_folders
from ranker import metrics
from ranker.run_folder import RunFolder
from ranker.slices import slices

SCORING_BATCH = 8192


def main(argv: list[str]) -> int:
    """The command `moon eval`."""
    from features.ranks import process_group
    from ranker.build import load_ranker

    parser = argparse.ArgumentParser("moon eval", description="Metrics of a trained run, with slices.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--data", type=Path, help="prepared dataset (default: the one it was trained on)")
    parser.add_argument(
        "--store", action="append", default=[], metavar="[NAME=]DIR", help="representation store (default: the run's)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    keep_freed_memory()
    run = RunFolder(args.run)
    dataset = Dataset(args.data or run.meta()["dataset"]["path"])
    with process_group() as ranks:
        stores = named_folders("--store", [v.name for v in run.recipe().features.vectors], args.store)
        model, samples = load_ranker(run, dataset, ranks, stores=stores)
        found = evaluate(model, samples, args.split, run, ranks)
    if ranks.first:
        print(table(found))
        if args.json:
            write_json(args.json, found)
    return 0


def evaluate(model: nn.Module, samples: SampleEncoder, split: str, run: RunFolder, ranks: Ranks) -> dict[str, Any]:
    """Score a split, write predictions and metrics into the run, return the metrics (on every rank).

    Those of another dataset or other vectors than the run's own carry the first letters of their fingerprints in their
    names.
    """
    dataset = samples.dataset
    started = time.monotonic()
    frame = predictions(model, samples, split, ranks)
    seconds = time.monotonic() - started
    frame = _with_keys(frame, dataset, split)
    label, score, user = (frame[c].to_numpy() for c in ("label", "score", "user"))
    found = metrics.report(label, score, user, slices(dataset, frame))
    found |= {
        "split": split,
        "dataset": dataset.fingerprint,
        "unknown_items": int((~_known_items(samples)[frame["item"].to_numpy()]).sum()),
        "rows_per_second": len(frame) / seconds,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if ranks.first:
        name = "-".join([split, *_not_its_own(samples, run)])
        write_parquet(run.predictions(name), frame.drop("history_end"))
        write_json(run.metrics(name), found)
    return found


def _not_its_own(samples: SampleEncoder, run: RunFolder) -> list[str]:
    """What the run was not trained on: eight letters of the dataset's fingerprint, and NAME-EIGHT of vectors."""
    meta = run.meta()
    own = samples.dataset.fingerprint == meta["dataset"]["fingerprint"]
    found = [] if own else [samples.dataset.fingerprint[:8]]
    for name, source in samples.vectors.items():
        fingerprint = source.version.meta["fingerprint"]
        if fingerprint != meta["stores"][name]["fingerprint"]:
            found.append(f"{name}-{fingerprint[:8]}")
    return found


def predictions(model: nn.Module, samples: SampleEncoder, split: str, ranks: Ranks) -> pl.DataFrame:
    """(row, score) of every sample of a split, in row order, gathered from all ranks; score is float64."""
    pinned = ranks.device.type == "cuda"
    loader = Loader(samples, split, SCORING_BATCH, rank=ranks.rank, world_size=ranks.world_size, pinned=pinned)
    rows, scores = [], []
    for row, score in score_batches(model, loader, ranks.device):
        rows.append(row)
        scores.append(score)
    mine = (np.concatenate(rows), np.concatenate(scores))
    gathered: list[Any] = [None] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(gathered, mine)
    else:
        gathered = [mine]
    row, score = (np.concatenate([part[i] for part in gathered]) for i in (0, 1))
    return pl.DataFrame({"row": row, "score": score}).sort("row")


def valid_figures(model: nn.Module, samples: SampleEncoder, ranks: Ranks) -> dict[str, Any]:
    """Figures of the valid split without slices, of which train.stop_metric is one; the same on every rank."""
    scores = predictions(model, samples, "valid", ranks)
    keys = samples.dataset.samples("valid").select("user", "label").collect(engine="streaming")
    return metrics.summary(keys["label"].to_numpy(), scores["score"].to_numpy(), keys["user"].to_numpy())


def score_batches(model: nn.Module, loader: Loader, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, click probability) of each batch; the model is put back into its mode afterwards.

    Raises InputError where a score is not finite.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in loader.epoch():
                logits = model(batch.to(device, non_blocking=True)).double().cpu().numpy()
                row = batch.row.cpu().numpy()
                bad = np.flatnonzero(~np.isfinite(logits))
                if len(bad):
                    raise InputError(f"split {loader.split!r} row {row[bad[0]]}: the model's score is {logits[bad[0]]}")
                yield row, 1 / (1 + np.exp(-logits))
    finally:
        model.train(was_training)


def _with_keys(frame: pl.DataFrame, dataset: Dataset, split: str) -> pl.DataFrame:
    keys = dataset.samples(split).select("ts", "user", "item", "label", "history_end").collect(engine="streaming")
    assert len(keys) == len(frame) and frame["row"].is_sorted()
    return pl.concat([frame.select("row"), keys, frame.select("score")], how="horizontal")


def _known_items(samples: SampleEncoder) -> np.ndarray:
    """Which items of the dataset have a row of their own in the item's table (all, if no feature is the item)."""
    for feature in samples.encoder.spec.features:
        if getattr(feature, "column", None) == "item":
            return samples.item_codes[feature.name].values > 0
    return np.ones(samples.dataset.meta["counts"]["items"], bool)


def table(found: dict[str, Any]) -> str:
    """The metrics as text."""
    head = ", ".join(f"{name} {found[name]:.5f}" for name in ("auc", "gauc", "logloss", "ne", "pcoc", "ece"))
    shares = f"GAUC counts {found['gauc_rows_share']:.1%} of rows, {found['gauc_users_share']:.1%} of users"
    lines = [f"{found['split']}: {head}", f"  {found['rows']:,} rows, {found['users']:,} users; {shares}"]
    if found["unknown_items"]:
        lines.append(f"  {found['unknown_items']:,} rows show an item unknown to the model (scored with the OOV row)")
    for name, part in found["slices"].items():
        values = " ".join(f"{m} {part[m]:.4f}" if part[m] is not None else f"{m} -" for m in ("auc", "gauc"))
        note = " (too small to mean anything)" if part.get("too_small") else ""
        lines.append(f"  {name:<24} {values}  {part['rows']:>9,} rows{note}")
    return "\n".join(lines)
