"""`moon demo`: the main job on a small simulated log, as the commands that a user would type."""

import argparse
import subprocess
import sys
from pathlib import Path

from data.errors import InputError
from data.marketplace.config import Market
from data.marketplace.simulate import simulate

CONFIGS = Path(__file__).parent / "configs"
RECIPES = ("marketplace_dcnv2", "marketplace_din")


def main(argv: list[str]) -> int:
    """The command. What is there from an earlier demo is used again; a run that was cut off goes on."""
    parser = argparse.ArgumentParser("moon demo", description="Simulate a small log, train two rankers, compare them.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--json", type=Path, help="write the comparison's figures here")
    args = parser.parse_args(argv)
    logs, dataset = args.out / "logs", args.out / "data"
    if args.out.exists() and not logs.is_dir() and any(args.out.iterdir()):
        raise InputError(f"--out {args.out}: holds something else; give an empty or a new folder")
    if not logs.is_dir():
        print(f"# a simulated marketplace (docs/marketplace.md) into {logs}", flush=True)
        simulate(Market(), logs)  # pyright: ignore[reportCallIssue]
    _moon("prepare", "tabular", "--root", logs, "--columns", logs / "columns.yaml", "--out", dataset)
    _moon("inspect", dataset)
    runs = [args.out / "runs" / recipe for recipe in RECIPES]
    for recipe, run in zip(RECIPES, runs, strict=True):
        _moon("train", CONFIGS / f"{recipe}.yaml", "--data", dataset, "--out", run, "--resume")
    _moon("compare", *runs, *(["--json", args.json] if args.json else []))
    print(f"\nEverything is in {args.out}; look into the training with: tensorboard --logdir {args.out / 'runs'}")
    return 0


def _moon(*words: object) -> None:
    """Show and run one command of ours; its failure is ours."""
    command = [str(word) for word in words]
    print(f"\n$ moon {' '.join(command)}", flush=True)
    status = subprocess.call([sys.executable, "-m", "moon", *command])
    if status:
        raise RuntimeError(f"moon {command[0]} ended with status {status}")
