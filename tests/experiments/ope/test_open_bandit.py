"""The real log of two policies: each one's click rate from the other's log."""

import json

import numpy as np
import polars as pl
import pytest
import yaml

import moon
from experiments.ope.config import OpenBanditLog
from experiments.ope.open_bandit import click_model, logged_by_the_other, read, shares


def test_both_policies_are_estimated_from_each_other_s_log(shared, tmp_path):
    root = shared / "datasets" / "open_bandit_men"
    for target, clicks in (("random", 46), ("bts", 69)):
        config = tmp_path / "ope.yaml"
        config.write_text(yaml.safe_dump({"log": {"kind": "open_bandit", "root": str(root), "target": target}}))
        assert moon.main(["ope", str(config), "--out", str(tmp_path / target)]) == 0
        found = json.loads((tmp_path / target / "ope.json").read_text())
        assert found["truth"]["value"] == clicks / 10_000 and found["clicks"] == 115 - clicks
        for estimate in found["estimates"].values():
            assert estimate["value"]["low"] <= found["truth"]["value"] <= estimate["value"]["high"]
        assert "<svg" in (tmp_path / target / "ope.html").read_text()
    log = pl.read_csv(root / "bts" / "men.csv")
    by_hand = (log["click"] / log["propensity_score"] / 34).mean()
    found = json.loads((tmp_path / "random" / "ope.json").read_text())
    assert found["estimates"]["ips"]["value"]["value"] == pytest.approx(by_hand, rel=1e-5)
    assert found["largest_ratio"] == pytest.approx(1 / (34 * log["propensity_score"].min()), rel=1e-4)


def test_policies_and_ratios_are_what_they_should_be(shared):
    root = shared / "datasets" / "open_bandit_men"
    share = shares(read(root, "bts"), 34)
    assert share[:, 1:].sum(0) == pytest.approx(np.ones(3)) and (share[:, 0] == 0).all()
    logged, facts = logged_by_the_other(OpenBanditLog(kind="open_bandit", root=root, target="bts"))
    assert facts["logging"] == "random" and facts["truth"]["low"] < 0.0069 < facts["truth"]["high"]
    assert logged.ratio.mean() == pytest.approx(1, abs=0.1) and (logged.value < 0.05).all()


def test_the_click_model_has_not_seen_the_rows_it_judges():
    """Clicks that only the row itself could tell are not learnt: users with a feature of their own."""
    rng = np.random.default_rng(0)
    rows, items = 900, 4
    item = rng.integers(0, items, rows)
    rate = np.array([0.02, 0.1, 0.3, 0.6])
    click = (rng.random(rows) < rate[item]).astype(float)
    frame = pl.DataFrame({"item_id": item, "position": rng.integers(1, 4, rows)})
    frame = frame.with_columns(
        *(pl.Series(f"user_feature_{i}", [f"u{r}" if i == 0 else "x" for r in range(rows)]) for i in range(4)),
        *(pl.lit(0.0).alias(f"affinity_{i}") for i in range(items)),
    )
    expected = click_model(frame, click, items)
    assert (np.diff(expected.mean(0)) > 0.02).all()
    same_item = item == 2
    assert abs(np.corrcoef(expected[same_item, 2], click[same_item])[0, 1]) < 0.2
