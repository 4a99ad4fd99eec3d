"""`moon bench peers`: our DIN beside FuxiCTR's and DeepCTR-Torch's on the same rows, in turns on one machine."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import InputError
from experiments.peers.rows import write_rows

PEERS = {"fuxictr==2.3.10": "fuxictr_din.py", "deepctr-torch==0.3.0": "deepctr_din.py"}  # each brings its own DIN
RECIPE = Path(__file__).parents[1] / "configs" / "movielens_din.yaml"


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench peers", description="Training speed of DIN, ours and that of peers.")
    parser.add_argument("--data", type=Path, required=True, help="prepared movielens_posters")
    parser.add_argument("--env", type=Path, required=True, help="environment with the peers (created if absent)")
    parser.add_argument("--rounds", type=int, default=3, help="paired runs; medians are reported")
    parser.add_argument("--batch-size", type=int, default=4096, help="rows a step, for all")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the compute, for all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    python = peer_python(args.env)
    with tempfile.TemporaryDirectory() as scratch:
        write_rows(Dataset(args.data), Path(scratch) / "rows")
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("moon-ranker", *PEERS)}
        for number in range(args.rounds):
            for name, found in runs.items():
                if name in PEERS:
                    found.append(_peer(PEERS[name], args, python, Path(scratch) / "rows", number))
                else:
                    found.append(_ours(args, Path(scratch) / f"run-{number}", number))
                speed = found[-1]["rows_per_second"]
                print(f"round {number + 1}/{args.rounds} {name:<20} {speed:>9,.0f} rows/s", flush=True)
    figures: dict[str, Any] = {name: _median(found) for name, found in runs.items()}
    figures["ratios"] = {name: _ratio(runs["moon-ranker"], runs[name]) for name in PEERS}
    figures["ratio"] = min(figures["ratios"].values())
    for name in runs:
        row = figures[name]
        print(
            f"{name:<20} {row['rows_per_second']:>9,.0f} rows/s  peak {row['peak_rss_bytes'] / 2**30:.2f} GiB  "
            f"valid AUC {row['valid_auc']:.4f}"
        )
    for name, ratio in figures["ratios"].items():
        print(f"ours over {name}, median of paired runs: {ratio:.2f}")
    if args.json:
        figures["settings"] = {"batch_size": args.batch_size, "threads": args.threads, "rounds": args.rounds}
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def peer_python(env: Path) -> Path:
    """Interpreter of the peers' environment, which is made from PyPI if `env` is not there.

    Raises InputError if `env` holds something else, or a package cannot be installed.
    """
    python = env / "bin" / "python"
    if not env.exists():
        subprocess.run([sys.executable, "-m", "venv", env], check=True)
        _install(python, "torch==2.13.0", "--retries", "1", "--extra-index-url", "https://download.pytorch.org/whl/cpu")
        for peer in PEERS:
            _install(python, peer)
    there = "from importlib.util import find_spec as f; assert f('fuxictr') and f('deepctr_torch')"
    found = subprocess.run([python, "-c", there], capture_output=True) if python.is_file() else None
    if found is None or found.returncode:
        known = " and ".join(PEERS)
        raise InputError(f"--env {env}: no environment with {known}; give a folder that does not exist to make one")
    return python


def _install(python: Path, *words: str) -> None:
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *words], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InputError(f"{words[0]} cannot be installed: {said[-1] if said else 'pip gave no reason'}")


def _ours(args: argparse.Namespace, run: Path, seed: int) -> dict[str, Any]:
    changes = [f"train.batch_size={args.batch_size}", "train.epochs=1", f"train.threads={args.threads}"]
    sets = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "moon", "train", RECIPE, "--data", args.data, "--out", run, "--seed", str(seed)]
    _run([*command, *sets], args.threads)
    meta, valid, test = (
        json.loads((run / name).read_text()) for name in ("meta.json", "metrics-valid.json", "metrics.json")
    )
    figures = {name: meta[name] for name in ("rows_per_second", "peak_rss_bytes")}
    return {**figures, "valid_auc": valid["auc"], "test_auc": test["auc"]}


def _peer(name: str, args: argparse.Namespace, python: Path, rows: Path, seed: int) -> dict[str, Any]:
    script = Path(__file__).with_name(name)
    out = _run([python, script, rows, str(args.batch_size), "1", str(seed)], args.threads)
    return json.loads(out.strip().splitlines()[-1])


def _run(command: list[Any], threads: int) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {lines[-1] if lines else 'no message'}")
    return done.stdout


def _ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    return statistics.median(a["rows_per_second"] / b["rows_per_second"] for a, b in zip(ours, theirs, strict=True))


def _median(found: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("rows_per_second", "peak_rss_bytes", "valid_auc", "test_auc")
    return {key: statistics.median(run[key] for run in found) for key in keys}
