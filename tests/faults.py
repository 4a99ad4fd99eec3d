"""`python -m tests.faults [--kills 10] [--nproc 2] [--seed 0] [--out DIR]`: training under random faults.

A small log is trained once undisturbed and once with `kill -9` at random moments: of one rank (the others follow), of
all ranks, or in the middle of a checkpoint write, each in turn; then a SIGTERM, and a newest checkpoint cut short. Each
time the run is started again with --resume; at last it is told to start itself again, and a rank is killed once more.
Losses and scores must be those of the undisturbed run, bit for bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import yaml

from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from tests.conftest import write_ratings
from tests.ranker.conftest import TINY

PATIENCE = 1800.0  # seconds that a run may take on a busy machine
FAULTS = ("one rank", "all ranks", "checkpoint")


class Victim:
    """One start of the training command, and what may befall it."""

    def __init__(self, words: list[str], out: Path, nproc: int, restarts: int = 0) -> None:
        self.out, self.nproc, self.alone = out, nproc, nproc == 1 and not restarts
        root = Path(__file__).parents[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        command = [sys.executable, "-m", "moon", "train", *words, "--nproc", str(nproc), "--resume"]
        command += ["--max-restarts", str(restarts)]
        self.process = subprocess.Popen(
            command, env=environment, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def ranks(self) -> list[int]:
        """Process ids of the training processes."""
        if self.alone:
            return [self.process.pid]
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    def kill(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it was dying already

    def wait_for(self, happened, seconds: float = PATIENCE) -> bool:
        """Until `happened()`; False if the process ended before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if happened():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        raise SystemExit("the training hung")

    def end(self) -> str:
        """What it said on stderr, once it has ended."""
        try:
            return self.process.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            self.process.terminate()
            raise

    def steps(self) -> int:
        log = self.out / "metrics.jsonl"
        return len(log.read_text().splitlines()) if log.is_file() else 0

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(part.iterdir() for part in self.out.glob("checkpoints/.step-*") if part.is_dir())


def strike(victim: Victim, fault: str, rng: random.Random) -> bool:
    """One fault some steps on; False if the training was done before."""
    goal = victim.steps() + rng.randint(3, 40)
    if not victim.wait_for(lambda: victim.steps() >= goal and len(victim.ranks()) == victim.nproc):
        return False
    if fault == "checkpoint" and not victim.wait_for(victim.writing):
        return False
    ranks = victim.ranks()
    victim.kill([rng.choice(ranks)] if fault == "one rank" and ranks else ranks)
    return True


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def finished(run: Path) -> bool:
    return (run / "meta.json").is_file() and json.loads((run / "meta.json").read_text()).get("finished", False)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 if every fault left no trace."""
    parser = argparse.ArgumentParser("python -m tests.faults", description="Training under random faults.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asynchronous", action="store_true", help="checkpoints written while training goes on")
    parser.add_argument("--pipeline", action="store_true", help="the next batch's ids are exchanged during a step")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        return _run(args, args.out or Path(scratch))


def _run(args: argparse.Namespace, root: Path) -> int:
    rng, data = random.Random(args.seed), root / "dataset"
    prepare(MovielensPosters(write_ratings(root / "raw")), data)
    train = {"epochs": args.epochs, "batch_size": 64 // args.nproc, "checkpoint_every": 5}
    train |= {"async_checkpoints": args.asynchronous, "pipeline": args.pipeline}
    (root / "recipe.yaml").write_text(yaml.safe_dump({**TINY, "train": TINY["train"] | train}))
    words = [str(root / "recipe.yaml"), "--data", str(data), "--out"]
    whole, run = root / "whole", root / "run"
    error = Victim([*words, str(whole)], whole, args.nproc).end()
    if not finished(whole):
        raise SystemExit(f"the undisturbed run failed: {error}")
    print(f"undisturbed: {len(losses(whole)):,} steps on {args.nproc} rank(s)", flush=True)
    done = 0
    while done < args.kills and not finished(run):
        fault = FAULTS[done % len(FAULTS)]
        victim = Victim([*words, str(run)], run, args.nproc)
        if strike(victim, fault, rng):
            done += 1
            print(f"kill -9 {done}: {fault} after {victim.steps():,} steps", flush=True)
        victim.end()
    if not finished(run):
        _terminate_and_cut(Victim([*words, str(run)], run, args.nproc), rng)
        last = Victim([*words, str(run)], run, args.nproc, restarts=1)
        if not strike(last, "one rank", rng):
            raise SystemExit("the run was done before the last kill; give more --epochs")
        error = last.end()
        if not finished(run) or "restart 1 of 1" not in error:
            raise SystemExit(f"the run did not end: {error}")
        if "going on from step-" not in error:
            raise SystemExit(f"the cut checkpoint went unnoticed: {error}")
    scores = [pl.read_parquet(folder / "predictions.parquet")["score"] for folder in (whole, run)]
    pairs = [*zip(losses(whole), losses(run), strict=True), *zip(*scores, strict=True)]
    largest = max(abs(a - b) for a, b in pairs)
    same = largest == 0
    print(
        f"{done} kills: losses and scores are {'the same' if same else 'DIFFERENT'}, largest difference {largest:.2g}"
    )
    return int(not same)


def _terminate_and_cut(victim: Victim, rng: random.Random) -> None:
    """SIGTERM some steps on; then the newest checkpoint loses its end."""
    goal = victim.steps() + rng.randint(3, 15)
    if not victim.wait_for(lambda: victim.steps() >= goal):
        raise SystemExit("the run was done before SIGTERM; give more --epochs")
    victim.process.send_signal(signal.SIGTERM)
    error = victim.end()
    if victim.process.returncode != 143:
        raise SystemExit(f"SIGTERM: status {victim.process.returncode}: {error}")
    last = (victim.out / "checkpoints" / "last").resolve()
    file = max((p for p in last.iterdir() if p.suffix == ".distcp"), key=lambda p: p.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)
    print(f"SIGTERM after {victim.steps():,} steps; {last.name}/{file.name} cut short", flush=True)


if __name__ == "__main__":
    sys.exit(main())
