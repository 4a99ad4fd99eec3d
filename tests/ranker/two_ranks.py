"""`python -m tests.ranker.two_ranks DATASET OUT`: what two gloo ranks must agree on while one lags behind the other.

A run follows its store. The second rank publishes a version just after the first one has looked for the newest: at the
start, and after the first evaluation. The same run is made once undisturbed; once stopped by a SIGTERM to the second
rank, just after both agreed to go on, and resumed; once with overlapping steps, stopped by one to the first rank. At
last a model starts from the undisturbed one. OUT/ranks.json: of each run the losses, scores, moves and the step it was
stopped at; `read`: the versions by rank; scores of the best checkpoint, and of the model that starts from it.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch.distributed as dist

import ranker.following
import ranker.start
import ranker.train
from data.config import parse_config
from data.dataset import Dataset
from features.ranks import Ranks
from features.store_writer import StoreWriter
from ranker.build import run_sources
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.evaluate import predictions
from ranker.incremental import take_over
from ranker.run_folder import RunFolder
from ranker.train import Interrupted, Trainer, train
from ranker.train_log import TrainLog
from tests.ranker.conftest import TINY
from tests.ranker.many_ranks import SHARDINGS, on_ranks

RUNS = {"undisturbed": (False, None), "stopped": (False, 1), "pipelined": (True, 0)}  # pipeline, the rank to stop
STOPPED = 16  # the step after it has neither a checkpoint nor an evaluation


def recipe(pipeline: bool) -> Recipe:
    """Two evaluations an epoch; the last batch of each has one row, the second rank's part is empty."""
    train = {"batch_size": 58, "epochs": 2, "evals_per_epoch": 2, "checkpoint_every": 3, "follow_stores": True}
    whole = {
        **TINY,
        "features": TINY["features"] | {"vectors": [{"name": "image"}]},
        "model": TINY["model"] | {"content": [{"kind": "concat", "vectors": "image"}]},
        "train": TINY["train"] | train | {"pipeline": pipeline},
        "sharding": {"tables": SHARDINGS["mixed"]["tables"]},
    }
    return parse_config(whole, Recipe, "tiny")


def publish(store: Path, data: Path, seed: int) -> None:
    items, fingerprint = Dataset(data).meta["counts"]["items"], Dataset(data).fingerprint
    vectors = np.random.default_rng(seed).normal(size=(items, 8))
    with StoreWriter(store, items, 8, encoder="random", matryoshka=(4,), dataset_fingerprint=fingerprint) as writer:
        writer.put(np.arange(items), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        writer.publish()


class Second:
    """Stands for a function that looks at the store: of two ranks the second looks once the first has, and a version
    more is there by then (the first time)."""

    def __init__(self, original: Any, looked: Path, store: Path, data: Path, ranks: Ranks) -> None:
        self.original, self.looked, self.store, self.data, self.ranks = original, looked, store, data, ranks

    def __call__(self, *words: Any) -> Any:
        if not self.ranks.first and not self.looked.with_suffix(".done").exists():
            while not self.looked.exists():
                time.sleep(0.01)
            publish(self.store, self.data, len(list(self.store.glob("v*"))))
            self.looked.with_suffix(".done").touch()
        found = self.original(*words)
        if self.ranks.first:
            self.looked.touch()
        return found


def one_run(name: str, data: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    pipeline, who = RUNS[name]
    store, run = out / f"store-{name}", RunFolder(out / name)
    if ranks.first:
        publish(store, data, 0)
    dist.barrier()
    read, written = [], TrainLog.step
    newest, moved = ranker.following._newest, ranker.train.moved_sources

    def step(self: TrainLog, progress: Any, *words: Any) -> None:
        written(self, progress, *words)
        if progress.step == STOPPED and ranks.rank == who:
            os.kill(os.getpid(), signal.SIGTERM)

    def moving(*words: Any) -> Any:
        found = Second(moved, out / f"{name}-looked", store, data, ranks)(*words) if not ranks.first else moved(*words)
        read.append(found and found["image"].version.number)
        return found

    words = recipe(pipeline), Dataset(data), run.root, ranks
    looks = {
        (ranker.start, "open_sources"): Second(ranker.start.open_sources, out / f"{name}-began", store, data, ranks),
        (ranker.following, "_newest"): Second(newest, out / f"{name}-looked", store, data, ranks),
        (ranker.train, "moved_sources"): moving,
    }
    patches = [patch.object(module, function, changed) for (module, function), changed in looks.items()]
    for one in patches:
        one.start()
    stopped = None
    try:
        with patch.object(TrainLog, "step", step), suppress(Interrupted):
            train(*words, False, {"image": store})
        if who is not None:
            stopped = json.loads((run.checkpoints / "last" / "state.json").read_text())["progress"]["step"]
            train(*words, True, {"image": store})
    finally:
        for one in patches:
            one.stop()
    versions: list[Any] = [None, None]
    dist.all_gather_object(versions, read)
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    return {
        "read": versions,
        "stopped": stopped,
        "moves": [(move["step"], move["versions"]["image"]) for move in run.meta()["store_moves"]],
        "losses": [line["loss"] for line in lines if "loss" in line],
        "scores": pl.read_parquet(run.predictions("test"))["score"].to_list(),
    }


def taken_over(data: Path, out: Path, ranks: Ranks) -> list[float]:
    """Scores of the valid rows by a model that starts from the undisturbed run's."""
    previous, made, dataset = RunFolder(out / "undisturbed"), recipe(False), Dataset(data)
    sources = run_sources(previous, made.features, dataset, {})
    encoders = ItemEncoders({}, sources, ranks)
    later = Trainer(made, dataset, sources, RunFolder(out / "later"), ranks, encoders, previous)
    later.optimizers.allocate()
    take_over(previous, later.encoder, later.model, later.optimizers.all)
    return predictions(later.model, later.samples, "valid", ranks)["score"].to_list()


def run(data: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """All cases."""
    found: dict[str, Any] = {name: one_run(name, data, out, ranks) for name in RUNS}
    best = pl.read_parquet(out / "undisturbed" / "predictions-valid.parquet")["score"].to_list()
    return found | {"best": best, "taken over": taken_over(data, out, ranks)}


def main(data: Path, out: Path) -> None:
    on_ranks(2, lambda ranks: run(data, out, ranks), out / "ranks.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
