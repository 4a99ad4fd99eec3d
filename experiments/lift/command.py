"""`moon lift CONFIG`: an online A/B test of trained rankers on a simulated marketplace."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data.config import load_config
from data.errors import InputError
from data.files import write_json, write_text
from data.host import keep_freed_memory
from experiments.lift.arms import make_arm
from experiments.lift.config import BUILT_IN, LiftConfig
from experiments.lift.judge import judge
from experiments.lift.play import Outcome, play
from experiments.lift.report import markdown
from experiments.lift.world import World, open_world
from experiments.page import alone
from experiments.report.lifts import lift_section
from features.ranks import Ranks, process_group
from ranker.run_folder import RunFolder
from ranker.versions import check_versions


def main(argv: list[str]) -> int:
    """The command. Arms that were played before with the same config are not played again."""
    parser = argparse.ArgumentParser("moon lift", description="An online A/B test on a simulated marketplace.")
    parser.add_argument("config", type=Path, help="the test (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the test")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    check_versions()
    keep_freed_memory()
    config = load_config(args.config, LiftConfig, args.set)
    with process_group() as ranks:
        found = run_test(config, args.out, ranks)
    print(markdown(found))
    print(f"{args.out / 'lift.html'}: the report with plots")
    if args.json:
        write_json(args.json, found)
    return 0


def run_test(config: LiftConfig, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Play what was not played yet; the figures, which are written to `out` with their pages.

    Raises InputError for a world, a dataset or runs that do not belong together.
    """
    world = open_world(config.logs, config.data)
    if config.days > world.market.later_days:
        later = world.market.later_days
        raise InputError(f"days = {config.days}: the world lists products for later_days = {later} days")
    outcomes = {name: _outcome(world, config, name, out, ranks) for name in (*BUILT_IN, *config.arms)}
    found = judge(world, config, outcomes)
    write_json(out / "lift.json", found)
    write_text(out / "lift.md", markdown(found))
    write_text(out / "lift.html", alone(lift_section(found)))
    return found


def _outcome(world: World, config: LiftConfig, name: str, out: Path, ranks: Ranks) -> Outcome:
    """The arm's outcome, played now or read from OUT/arms."""
    path, key = out / "arms" / f"{name}.npz", _key(world, config, name)
    if path.is_file():
        with np.load(path) as saved:
            if str(saved["key"]) == key:
                return Outcome(saved["sums"], saved["shown"])
    outcome = play(world, config, make_arm(world, config, name, ranks), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        np.savez_compressed(file, sums=outcome.sums, shown=outcome.shown, key=np.array(key))
    part.rename(path)
    return outcome


def _key(world: World, config: LiftConfig, name: str) -> str:
    """What an arm's outcome depends on."""
    facts = [world.market.model_dump(), world.dataset.fingerprint, name, config.days, config.replay, config.rank_by]
    if name in config.arms:
        run = RunFolder(config.arms[name].run)
        meta = run.meta()
        if not meta.get("finished"):
            raise InputError(f"{run.root}: this run has not finished; continue it with moon train --resume")
        facts += [
            config.refresh.model_dump(),
            str(run.root.resolve()),
            run.recipe().model_dump(mode="json"),
            meta.get("steps"),
            meta["commit"],
        ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
