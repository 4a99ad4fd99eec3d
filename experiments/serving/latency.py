"""One request at a time, one thread, in this process: the trained model eager beside its package."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Dataset
from features.ranks import process_group
from features.vector_source import named_folders
from ranker.build import load_ranker
from ranker.run_folder import RunFolder
from ranker.serving.model import Model
from ranker.serving.requests import request_of

ROUNDS = 10


def latency(run: RunFolder, dataset: Dataset, model: Model, requests: list[dict], stores: list[str]) -> dict[str, Any]:
    """Milliseconds a request.

    eager: the trained ranker on the encoded batch, tables in TorchRec. exported: the package on the same batch, its
    look-ups included. encoding: from a request's tensors to the batch. request: all that a worker does for one.
    """
    own = model.package.signature
    asked = [request_of(own, tensors) for tensors in requests]
    pinned = model.pinned()
    batches = [model.requests.encode(request, pinned)[0] for request in asked]
    named: dict[str, Path] = named_folders("--store", [v.name for v in run.recipe().features.vectors], stores)
    with process_group() as ranks:
        trained, _ = load_ranker(run, dataset, ranks, stores=named)
        with torch.no_grad():
            eager, exported = _timed_in_turns(
                len(batches), lambda i: trained(batches[i]), lambda i: model.logits(batches[i], pinned)
            )
    encoding, request = _timed_in_turns(
        len(asked), lambda i: model.requests.encode(asked[i], pinned), lambda i: model.score(asked[i])
    )
    ratio = {"p50": eager["p50_ms"] / exported["p50_ms"]}
    found = {"eager": eager, "exported": exported, "eager_by_exported": ratio, "encoding": encoding, "request": request}
    return found


def _timed_in_turns(count: int, *calls: Callable[[int], Any]) -> list[dict[str, float]]:
    """Of each call(i), i < count, a round each in turns: a busy time hits all. The first round is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS + 1):
        for call, own in zip(calls, seconds, strict=True):
            for i in range(count):
                started = time.perf_counter()
                call(i)
                if turn:
                    own.append(time.perf_counter() - started)
    return [{f"p{q}_ms": float(np.percentile(np.array(s) * 1e3, q)) for q in (10, 50, 90)} for s in seconds]
