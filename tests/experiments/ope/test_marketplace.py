"""Off-policy estimates on the marketplace beside the truth of the same sessions."""

import json

import numpy as np
import polars as pl
import pytest
import yaml

import moon
from experiments.ope.config import Lottery, MarketLog
from experiments.ope.estimators import ESTIMATORS, estimate
from experiments.ope.marketplace import coverage, from_the_logs
from features.ranks import process_group


def config(root, replays=0, **target):
    lottery = Lottery(**({"kind": "lottery", "greed": 2.0, "exploration": 0.2} | target))
    return MarketLog(
        kind="marketplace", logs=root / "logs", data=root / "data", target=lottery, days=2, replays=replays
    )


def test_the_logging_policy_estimates_itself(world, market_root):
    with process_group() as ranks:
        logged, logging, target = from_the_logs(world, config(market_root, greed=1.0), ranks, 0)
    assert logged.ratio == pytest.approx(np.ones(len(logged.ratio)))
    files = sorted((market_root / "logs" / "impressions").glob("*.parquet"))[-2:]
    rows = pl.read_parquet(files)
    assert logged.reward.tolist() == rows["clicked"].to_list() and len(rows) == 2 * 300 * 6
    assert target == pytest.approx(logging, rel=0.1)
    found = estimate(logged, 10, 100, 0)
    assert found.draws["ips"] == pytest.approx(found.logged) and found.effective == pytest.approx(found.rows)


def test_ratios_are_those_of_the_logged_propensities(world, market_root):
    """The recomputed logging probability is the one in the log; the target's is that of its own lottery."""
    with process_group() as ranks:
        logged, _, _ = from_the_logs(world, config(market_root, greed=0.0, exploration=1.0), ranks, 0)
    files = sorted((market_root / "logs" / "impressions").glob("*.parquet"))[-2:]
    rows = pl.read_parquet(files)
    here = logged.ratio / logged.before  # this slot's own ratio; the target is uniform over what is left
    candidates = np.concatenate([(t.candidates >= 0).sum(1) for _, t in world.traffic(range(2, 4), 0)])
    left = np.repeat(candidates, 6) - np.tile(np.arange(6), len(candidates))
    assert here == pytest.approx(1 / left / rows["p_shown"].to_numpy())


def test_intervals_hold_the_truth_in_nine_of_ten_of_200_replays(world, market_root):
    found = coverage(world, config(market_root, replays=200), 10, 200, 0)
    for name in ESTIMATORS:
        assert found[name]["covers_truth"] >= 0.9, (name, found[name])
    for name in ("ips", "snips", "dr"):
        assert abs(found[name]["mean_error"]) < 4 * found[name]["deviation"] / np.sqrt(200) + 0.005


def test_a_trained_run_s_lottery_from_the_command_line(market_root, tmp_path, capsys):
    log = {"kind": "marketplace", "logs": str(market_root / "logs"), "data": str(market_root / "data"), "days": 1}
    target = {"kind": "ranker", "run": str(market_root / "run")}
    path = tmp_path / "ope.yaml"
    path.write_text(yaml.safe_dump({"log": log | {"target": target}}))
    assert moon.main(["ope", str(path), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["rows"] == 300 * 6 and len(found["effective_sample_size"]) == 6
    assert "the true lift over the logging policy" in capsys.readouterr().out.lower()
    assert 0.5 < found["estimates"]["snips"]["value"]["value"] / found["truth"]["value"] < 2
    for change, message in (
        ("log.replays=3", "coverage is measured for target kind lottery only"),
        ("log.days=4", "the logs hold 4 days; read fewer"),
        ("log.kind=bandit", "log"),
    ):
        assert moon.main(["ope", str(path), "--out", str(tmp_path / "out"), "--set", change]) == 2
        assert message in capsys.readouterr().err
