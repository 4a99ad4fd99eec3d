"""`moon lift` from config to report; mistakes are one line."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml

import moon
from experiments.lift import command
from experiments.lift.estimates import METRICS


@pytest.fixture(scope="module")
def played(market_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("played") / "out"
    assert moon.main(["lift", str(market_root / "lift.yaml"), "--out", str(out), "--json", str(out / "x.json")]) == 0
    return out


def test_the_figures_hang_together(played, world):
    found = json.loads((played / "lift.json").read_text())
    assert json.loads((played / "x.json").read_text()) == found
    assert list(found["arms"]) == ["random", "popular", "oracle", "tiny"]
    for arm in found["arms"].values():
        for metric in METRICS:
            level, lift = (arm["metrics"][metric][k]["value"] for k in ("level", "lift"))
            base = found["arms"]["popular"]["metrics"][metric]["level"]["value"]
            assert lift == pytest.approx(level / base - 1)
        assert len(arm["by_day"]["ctr"]) == 2
        assert arm["by_day"]["ctr"][-1]["value"] == pytest.approx(arm["metrics"]["ctr"]["lift"]["value"])
        shares = [part["impression_share"]["value"] for name, part in arm["slices"].items() if "category" in name]
        assert sum(shares) == pytest.approx(1)
    popular, oracle, rand = (found["arms"][name]["metrics"]["true_ctr"] for name in ("popular", "oracle", "random"))
    assert popular["lift"] == {"value": 0, "low": 0, "high": 0} and popular["headroom"]["value"] == 0
    assert oracle["headroom"] == {"value": 1, "low": 1, "high": 1} and oracle["lift"]["low"] > 0
    assert rand["lift"]["high"] < 0 and set(found["aa"]) == {"ctr", "rpm", "orders"}
    day = found["arms"]["oracle"]["by_day"]["true_ctr"][-1]
    assert day["high"] - day["low"] > oracle["lift"]["high"] - oracle["lift"]["low"]


def test_the_page_stands_alone_and_says_what_the_figures_say(played):
    page, text = (played / "lift.html").read_text(), (played / "lift.md").read_text()
    assert page.count('role="img"') == 3 and not re.search(r"(src|href)=.(?!#|data:)", page)
    found = json.loads((played / "lift.json").read_text())
    value = found["arms"]["oracle"]["metrics"]["ctr"]["lift"]["value"]
    assert f"{value:+.1%}<small>[" in page and f"{value:+.1%} [" in text
    assert "<script" not in page


def test_arms_that_were_played_are_not_played_again(played, market_root, monkeypatch):
    before = (played / "lift.json").read_text()
    (played / "arms" / "random.npz").unlink()
    names = []
    real = command.play
    monkeypatch.setattr(
        command, "play", lambda world, config, arm, name: names.append(name) or real(world, config, arm, name)
    )
    assert moon.main(["lift", str(market_root / "lift.yaml"), "--out", str(played)]) == 0
    assert names == ["random"] and (played / "lift.json").read_text() == before
    with np.load(played / "arms" / "tiny.npz") as saved:
        assert saved["sums"].shape[1] == 150
    assert moon.main(["lift", str(market_root / "lift.yaml"), "--out", str(played), "--set", "replay=5"]) == 0
    assert names == ["random", "random", "popular", "oracle", "tiny"]


def test_mistakes_are_one_line(market_root, tmp_path, capsys):
    good = yaml.safe_load((market_root / "lift.yaml").read_text())

    def fails(**changes):
        (tmp_path / "lift.yaml").write_text(yaml.safe_dump(good | changes))
        capsys.readouterr()
        assert moon.main(["lift", str(tmp_path / "lift.yaml"), "--out", str(tmp_path / "out")]) == 2
        (line,) = [row for row in capsys.readouterr().err.strip().splitlines() if row.startswith("moon")]
        return line

    assert "control 'ttiny' is no arm (there are: tiny, random, popular, oracle)" in fails(control="ttiny")
    assert "the world lists products for later_days = 3 days" in fails(days=4)
    assert "arms.oracle: this arm takes part anyway" in fails(arms={"oracle": {"run": "x"}})
    assert "market.yaml: no such config file" in fails(logs=str(tmp_path))
    assert "no run (meta.json is missing)" in fails(arms={"tiny": {"run": str(tmp_path)}})
    half = shutil.copytree(market_root / "run", tmp_path / "half", symlinks=True)
    meta = json.loads((half / "meta.json").read_text())
    (half / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if k != "finished"}))
    assert "has not finished; continue it with moon train --resume" in fails(arms={"tiny": {"run": str(half)}})
    meta["dataset"]["fingerprint"] = "0" * 64
    (half / "meta.json").write_text(json.dumps(meta))
    assert "trained on dataset 000000000000" in fails(arms={"tiny": {"run": str(half)}})
