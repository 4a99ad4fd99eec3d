"""`moon bench serve MODEL`: what an exported model's server stands, measured from a process of its own."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from data.host import keep_freed_memory
from experiments.serving import scenarios
from experiments.serving.latency import latency
from experiments.serving.machine import machine
from experiments.serving.requests import http_messages, sized_requests
from experiments.serving.scenarios import Bench, cores, scores_of
from ranker.run_folder import RunFolder
from ranker.serving.model import Model

PARTS = ("latency", "load", "overload", "soak", "restart", "swap")
RESTARTS = 3
STEADY = 0.5  # of the capacity: the rate of the soak and of the swaps
REQUESTS = 64  # distinct ones


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench serve", description="Load a server of an exported model.")
    parser.add_argument("model", type=Path, help="folder of an exported model")
    parser.add_argument("--run", type=Path, help="the run it was exported from: eager beside exported")
    parser.add_argument("--data", type=Path, required=True, help="dataset whose test rows ask")
    parser.add_argument("--store", action="append", default=[], metavar="[NAME=]DIR", help="stores of the run")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}; overload and on need load")
    parser.add_argument("--candidates", type=int, default=200, help="a request")
    parser.add_argument("--history", type=int, default=50, help="behaviours a request")
    parser.add_argument("--concurrency", default="1,8,32", help="clients of the closed loops")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each loop")
    parser.add_argument("--soak-s", type=float, default=300.0, help="of the soak")
    parser.add_argument("--times", type=float, default=3.0, help="overload, in capacities")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    parts = args.parts.split(",")
    if not set(parts) <= set(PARTS):
        raise InputError(f"--parts {args.parts}: must be some of {','.join(PARTS)}")
    if {"overload", "soak", "swap"} & set(parts) and "load" not in parts:
        raise InputError("--parts: overload, soak and swap take their rates from load; add it")
    keep_freed_memory()
    torch.set_num_threads(1)
    dataset, model = Dataset(args.data), Model(args.model)
    requests = sized_requests(args.model, dataset, args.candidates, args.history, REQUESTS)
    found: dict[str, Any] = {"machine": machine(), "cores": cores(), "model": model.package.name}
    found |= {"candidates": args.candidates, "history": args.history, "tables": model.package.tables}
    found["tables_bytes"] = model.tables.bytes
    if "latency" in parts and args.run is not None:
        found["latency"] = _told(latency(RunFolder(args.run), dataset, model, requests, args.store), "latency")
    with tempfile.TemporaryDirectory() as scratch:
        bench = _bench(args.model, Path(scratch) / "model", model, requests)
        for name, part in _loads(bench, args, found):
            if name in parts:
                found[name] = _told(part(), name)
    if args.json:
        write_json(args.json, found)
    return 0


def _bench(package: Path, copy: Path, model: Model, requests: list[dict]) -> Bench:
    """The model in a folder of its own, with a second version beside it, and the scores that both must give."""
    second = scenarios.two_versions(package, copy)
    scores = {"1": scores_of(model, requests), "2": scores_of(Model(second), requests)}
    messages = http_messages(model.package.name, model.package.signature, requests)
    return Bench(copy, messages, scores)


def _loads(
    bench: Bench, args: argparse.Namespace, found: dict[str, Any]
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    def capacity() -> float:
        return max(part["answered_per_second"] for part in found["load"].values() if isinstance(part, dict))

    concurrencies = [int(word) for word in args.concurrency.split(",")]
    return [
        ("load", lambda: scenarios.load(bench, concurrencies, args.seconds)),
        ("overload", lambda: scenarios.overload(bench, capacity(), args.times, args.seconds)),
        ("restart", lambda: scenarios.restart(bench, RESTARTS)),
        ("swap", lambda: scenarios.swap(bench, STEADY * capacity(), args.seconds)),
        ("soak", lambda: scenarios.soak(bench, STEADY * capacity(), args.soak_s)),
    ]


def _told(found: dict[str, Any], name: str) -> dict[str, Any]:
    """Print a part's figures, one line each."""
    for key, value in found.items():
        shown = value if isinstance(value, dict) else {"": value}
        print(f"{name} {key}: " + ", ".join(f"{k} {_short(v)}".strip() for k, v in shown.items()), flush=True)
    return found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
