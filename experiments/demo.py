"""`moon demo`: the whole job on the simulated marketplace, as the commands that a user would type.

Simulate logs, prepare them, pretrain and post-train an encoder, embed the catalogue, train a ranker on ids, one that
reads the vectors and its twin on shuffled vectors, compare them, play them online, export, report. A finished step is
not done again, and one that was cut off goes on, be it by kill -9: OUT/steps/NAME.json holds the words of a finished
step.
"""

import argparse
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import moon
from data.config import load_config, parse_config
from data.errors import InputError
from data.files import write_json, write_text
from data.marketplace.config import Market
from data.marketplace.simulate import simulate
from experiments.demo_config import DemoConfig
from experiments.demo_table import TWIN, learned
from experiments.grid import clock

CONFIGS = Path(__file__).parent / "configs"
LOCK = ".lock"
PART = ".demo.yaml."  # of demo.yaml, half written


def main(argv: list[str]) -> int:
    """The command. Ends with the report's path and a table of what was learned."""
    parser = argparse.ArgumentParser("moon demo", description="The whole job on a small simulated marketplace.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo.yaml", help="what to do (default: demo.yaml)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of it")
    parser.add_argument("--json", type=Path, help="write the table's figures here as well")
    args = parser.parse_args(argv)
    config = load_config(args.config, DemoConfig, args.set)
    demo = Demo(config, args.out)
    started = time.monotonic()
    demo.run()
    rows, table = learned(args.out, config)
    write_json(args.out / "learned.json", rows)
    if args.json:
        write_json(args.json, rows)
    print(f"\n{table}\n\n{clock(time.monotonic() - started)} on this machine. The report: {args.out / 'report.html'}")
    return 0


class Demo:
    """The steps in their folder."""

    def __init__(self, config: DemoConfig, out: Path) -> None:
        """Raises InputError if `out` holds something else, or a demo of other settings."""
        self.config, self.out, path = config, out, out / "demo.yaml"
        plain = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        if path.is_file():
            if load_config(path, DemoConfig) != config:
                raise InputError(f"{path}: a demo of other settings; give another --out")
        elif out.exists() and any(not found.name.startswith((LOCK, PART)) for found in out.iterdir()):
            raise InputError(f"--out {out}: holds something else; give an empty or a new folder")
        write_text(path, plain)

    def run(self) -> None:
        """All steps. Raises RuntimeError for one that fails, which has said why, and InputError if another demo is at
        work in the folder."""
        with _claimed(self.out):
            self._steps()

    def _steps(self) -> None:
        config, out = self.config, self.out
        logs, data, store = out / "logs", out / "data", out / "store"
        if not logs.is_dir():
            print(f"# a simulated marketplace (docs/marketplace.md) into {logs}", flush=True)
            simulate(parse_config({"later_days": config.days} | config.market, Market, "market"), logs)
        self.step("prepare", "prepare", "tabular", "--root", logs, "--columns", logs / "columns.yaml", "--out", data)
        self.step("inspect", "inspect", data)
        encoder = None
        for stage in ("pretrain", "posttrain"):
            recipe = getattr(config, stage)
            start = ["--init", encoder] if encoder else []
            words = [CONFIGS / f"{recipe.recipe}.yaml", "--data", data, *start, "--out", out / stage, "--resume"]
            self.step(stage, "encoder", stage, *words, *recipe.words())
            encoder = out / stage / "encoder"
        self.step("embed", "encoder", "embed", encoder, "--data", data, "--store", store, "--resume")
        runs = {name: out / "runs" / name for name in ("id_only", "moon", TWIN)}
        for name, run in runs.items():
            recipe = config.id_only if name == "id_only" else config.moon
            words = [CONFIGS / f"{recipe.recipe}.yaml", "--data", data, "--out", run, "--resume", *recipe.words()]
            vectors = [] if name == "id_only" else ["--store", f"content={store}"]
            shuffled = ["--set", f"name={TWIN}", "--set", "features.vectors.content.shuffle=0"] if name == TWIN else []
            self.step(name, "train", *words, *vectors, *shuffled)
        self.step("compare", "compare", *runs.values(), "--json", out / "compare.json")
        self.step("content", "compare", runs[TWIN], runs["moon"], "--json", out / "content.json")
        test = {
            "logs": str(logs),
            "data": str(data),
            "control": "id_only",
            "arms": {name: {"run": str(run)} for name, run in runs.items()},
            "days": config.days,
        }
        write_text(out / "lift.yaml", yaml.safe_dump(test, sort_keys=False))
        self.step("lift", "lift", out / "lift.yaml", "--out", out / "lift")
        export = ["--out", out / "export", "--programs", config.programs, "--json", out / "export.json"]
        self.step("export", "export", runs["moon"], *export)
        shown = [out / name for name in ("data", "pretrain", "posttrain", "store", "runs", "lift", "export")]
        self.step("report", "report", *shown, "--out", out / "report.html", "--title", "The demo")

    def step(self, name: str, *words: object) -> None:
        """Show and run one command of ours, unless it is finished already."""
        command, done = [str(word) for word in words], self.out / "steps" / f"{name}.json"
        print(f"\n$ moon {' '.join(command)}", flush=True)
        if done.is_file() and json.loads(done.read_text())["words"] == command:
            print("(done already)", flush=True)
            return
        started = time.monotonic()
        status = moon.main(command)
        if status:
            raise RuntimeError(f"moon {command[0]} ended with status {status}; moon demo goes on from here")
        facts: dict[str, Any] = {"words": command, "seconds": time.monotonic() - started}
        write_json(done, facts)


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Hold the folder while working in it; what a demo that was killed left half written is removed."""
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out {out}: another moon demo is at work there; wait for it") from None
        for left in (*out.glob(f"{PART}*"), *out.glob(".*.building-*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
