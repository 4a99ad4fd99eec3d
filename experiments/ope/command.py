"""`moon ope CONFIG`: the value of a policy that did not run, from logged propensities."""

import argparse
from pathlib import Path
from typing import Any

from data.config import load_config
from data.errors import InputError
from data.files import write_json, write_text
from experiments.lift.world import open_world
from experiments.ope.config import Lottery, OpeConfig, OpenBanditLog
from experiments.ope.estimators import ESTIMATORS, Estimates, estimate
from experiments.ope.report import markdown
from experiments.page import alone
from experiments.report.lifts import ope_section
from features.ranks import process_group
from ranker.versions import check_versions


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon ope", description="Off-policy estimates on logged propensities.")
    parser.add_argument("config", type=Path, help="the estimate (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the config")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    config = load_config(args.config, OpeConfig, args.set)
    found = _open_bandit(config, config.log) if isinstance(config.log, OpenBanditLog) else _marketplace(config)
    write_json(args.out / "ope.json", found)
    write_text(args.out / "ope.md", markdown(found))
    write_text(args.out / "ope.html", alone(ope_section(found)))
    print(markdown(found))
    print(f"{args.out / 'ope.html'}: the report with a plot")
    if args.json:
        write_json(args.json, found)
    return 0


def _open_bandit(config: OpeConfig, log: OpenBanditLog) -> dict[str, Any]:
    from experiments.ope.open_bandit import logged_by_the_other

    logged, facts = logged_by_the_other(log)
    estimates = estimate(logged, config.switch, config.draws, config.seed)
    return {"log": "open_bandit"} | facts | _figures(config, estimates)


def _marketplace(config: OpeConfig) -> dict[str, Any]:
    from experiments.ope.marketplace import coverage, from_the_logs

    log = config.log
    assert not isinstance(log, OpenBanditLog)
    if log.replays and not isinstance(log.target, Lottery):
        raise InputError("log.replays: coverage is measured for target kind lottery only")
    check_versions()
    world = open_world(log.logs, log.data)
    if log.days >= world.market.days:
        raise InputError(f"log.days = {log.days}: the logs hold {world.market.days} days; read fewer")
    with process_group() as ranks:
        logged, true_logging, true_target = from_the_logs(world, log, ranks, config.seed)
    estimates = estimate(logged, config.switch, config.draws, config.seed)
    found = {
        "log": "marketplace",
        "target": log.target.model_dump(mode="json"),
        "logging": {"greed": world.market.greed, "exploration": world.market.exploration},
        "rows": len(logged.reward),
        "clicks": int(logged.reward.sum()),
        "truth": {"value": true_target, "low": None, "high": None},
        "true_lift": true_target / true_logging - 1,
    }
    found |= _figures(config, estimates)
    if log.replays:
        found["coverage"] = coverage(world, log, config.switch, config.draws, config.seed)
        found["replays"] = log.replays
    return found


def _figures(config: OpeConfig, estimates: Estimates) -> dict[str, Any]:
    return {
        "logged_value": float(estimates.logged[0]),
        "estimates": {
            name: {"value": estimates.value(name).as_dict(), "lift": estimates.lift(name).as_dict()}
            for name in ESTIMATORS
        },
        "effective_sample_size": [float(n) for n in estimates.effective],
        "decisions": [int(n) for n in estimates.rows],
        "largest_ratio": estimates.largest,
        "switch": config.switch,
        "draws": config.draws,
    }
