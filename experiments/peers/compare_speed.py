"""`moon bench peers`: our DIN beside FuxiCTR's on the same rows, alternating in one run on one machine."""

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

PEER = "fuxictr==2.3.10"
RECIPE = Path(__file__).parents[1] / "configs" / "movielens_din.yaml"


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench peers", description="Training speed of DIN, ours and FuxiCTR's.")
    parser.add_argument("--data", type=Path, required=True, help="prepared movielens_posters")
    parser.add_argument("--env", type=Path, required=True, help=f"environment with {PEER} (created if absent)")
    parser.add_argument("--rounds", type=int, default=3, help="paired runs; medians are reported")
    parser.add_argument("--batch-size", type=int, default=4096, help="rows a step, for both")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the compute, for both")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    python = peer_python(args.env)
    with tempfile.TemporaryDirectory() as scratch:
        write_rows(Dataset(args.data), Path(scratch) / "rows")
        runs: dict[str, list[dict[str, Any]]] = {"moon-ranker": [], PEER: []}
        for number in range(args.rounds):
            runs["moon-ranker"].append(_ours(args, Path(scratch) / f"run-{number}", number))
            runs[PEER].append(_peer(args, python, Path(scratch) / "rows", number))
            for name, found in runs.items():
                print(
                    f"round {number + 1}/{args.rounds} {name:<16} {found[-1]['rows_per_second']:>9,.0f} rows/s",
                    flush=True,
                )
    figures: dict[str, Any] = {name: _median(found) for name, found in runs.items()}
    figures["ratio"] = statistics.median(
        a["rows_per_second"] / b["rows_per_second"] for a, b in zip(runs["moon-ranker"], runs[PEER], strict=True)
    )
    for name in runs:
        row = figures[name]
        print(
            f"{name:<16} {row['rows_per_second']:>9,.0f} rows/s  peak {row['peak_rss_bytes'] / 2**30:.2f} GiB  "
            f"valid AUC {row['valid_auc']:.4f}"
        )
    print(f"ratio of paired runs, median: {figures['ratio']:.2f}")
    if args.json:
        figures["settings"] = {"batch_size": args.batch_size, "threads": args.threads, "rounds": args.rounds}
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def peer_python(env: Path) -> Path:
    """Interpreter of the peer's environment, which is made from PyPI if `env` is not there.

    Raises InputError if `env` holds something else.
    """
    python = env / "bin" / "python"
    if not env.exists():
        subprocess.run([sys.executable, "-m", "venv", env], check=True)
        torch = ["torch==2.13.0", "--extra-index-url", "https://download.pytorch.org/whl/cpu"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--retries", "1", *torch], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    found = subprocess.run([python, "-c", "import fuxictr"], capture_output=True) if python.is_file() else None
    if found is None or found.returncode:
        raise InputError(f"--env {env}: no environment with {PEER}; give a folder that does not exist to make one")
    return python


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


def _peer(args: argparse.Namespace, python: Path, rows: Path, seed: int) -> dict[str, Any]:
    script = Path(__file__).with_name("fuxictr_din.py")
    out = _run([python, script, rows, str(args.batch_size), "1", str(seed)], args.threads)
    return json.loads(out.strip().splitlines()[-1])


def _run(command: list[Any], threads: int) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {lines[-1] if lines else 'no message'}")
    return done.stdout


def _median(found: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("rows_per_second", "peak_rss_bytes", "valid_auc", "test_auc")
    return {key: statistics.median(run[key] for run in found) for key in keys}
