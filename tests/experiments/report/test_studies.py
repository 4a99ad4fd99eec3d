"""The sections of scaling and iterations say what their findings say."""

import json

import numpy as np
import pytest

from data.errors import InputError
from experiments.page import Section, data, document
from experiments.report.iterations import iterations_section, over_seeds
from experiments.report.scaling import scaling_section
from experiments.report.studies import study_section, with_failed
from experiments.studies.scaling_fit import scaling_law

X = np.array([100.0, 200, 400, 800, 1600])


def axis(name: str, y: np.ndarray) -> dict:
    law = {"y": y.tolist()} | scaling_law(X, y)
    return {"name": name, "title": f"training {name}", "x": X.tolist(), "seeds": [0, 1, 2], "laws": {"auc": law}}


def test_an_axis_that_rises_and_one_that_does_not_are_told_apart():
    noise = np.random.default_rng(0).normal(0, 1e-3, (5, 3))
    grows, flat = axis("pairs", (0.6 - 0.8 * X**-0.5)[:, None] + noise), axis("batch", 0.6 + noise - noise[[0]])
    section = scaling_section({"source": "toy", "split": "test", "axes": [grows, flat]})
    assert "AUC rises from 100 to 1600" in section.said[0] and "does not change" in section.said[1]
    rise = np.mean(np.array(grows["laws"]["auc"]["y"])[-1] - np.array(grows["laws"]["auc"]["y"])[0])
    assert f"{rise:+.4f}" in section.said[0]
    parts = json.loads(json.dumps(data([section])))["scaling"]["parts"]
    assert parts["pairs-auc"]["rows"] and {row[0] for row in parts["batch-auc"]["rows"]} == {"seeds"}
    assert "not established, no law fitted" in document("Toy", "", [section])


def test_steps_add_up_to_the_whole():
    def gain(delta: float) -> dict:
        part = {"delta": delta, "low": delta - 1e-3, "high": delta + 1e-3}
        return {metric: {"users": part, "seeds": part} for metric in ("auc", "gauc")}

    steps, level = [], 0.71
    for name, delta in (("side", 0.002), ("cube", 0.005)):
        level += delta
        levels = {metric: {"mean": level, "sd": 5e-4} for metric in ("auc", "gauc")}
        steps.append({"name": name, "title": f"step {name}", "axis": "model", "levels": levels})
        steps[-1] |= {"own": gain(delta), "whole": gain(level - 0.71)}
    tests = [
        {"levels": {"id_only": 0.07, "side": 0.071, "cube": 0.0735}, "sessions": 10, "lifts": {"cube": {"value": lift}}}
        for lift in (0.04, 0.05, 0.06)
    ]
    start = {metric: {"mean": 0.71} for metric in ("auc", "gauc")}
    found = {"source": "toy", "rows": 9, "users": 3, "seeds": [0, 1, 2], "start": start, "steps": steps}
    section = iterations_section(found | {"online": {"days": 1, "tests": tests}})
    parts = data([section])["iterations"]["parts"]
    assert parts["fall-auc"]["rows"][-1][-1] == pytest.approx(0.717)
    assert parts["online"]["rows"][-1][-1] == pytest.approx(np.log(0.0735 / 0.07))
    assert "true CTR +5.0%" in section.said[-1] and over_seeds([0.04, 0.05, 0.06])[0] == pytest.approx(0.05)
    assert document("Toy", "", [section]).count('role="img"') == 4
    assert "content" not in parts
    assert "online" not in data([iterations_section(found | {"online": None})])["iterations"]["parts"]
    for step, delta in zip(steps, (0.0005, 0.003), strict=True):
        step["content"] = gain(delta)
    for test in tests:
        test["levels"]["cube_shuffled"] = test["levels"]["side"]
    section = iterations_section(found | {"online": {"days": 1, "tests": tests}})
    assert [row[2] for row in data([section])["iterations"]["parts"]["content"]["rows"]] == [5e-4, 5e-4, 3e-3, 3e-3]
    assert "on shuffled vectors: AUC +0.0030" in section.said[1] and "on shuffled vectors: +3.5%" in section.said[-1]
    same = {"users": {"delta": 0.0, "low": 0.0, "high": 0.0}, "seeds": None}
    steps[1] |= {"own": {"auc": same, "gauc": same}}
    said = iterations_section(found | {"online": None}).said
    assert "scores are those of the step before" in said[1] and "better on AUC" in said[0]


def test_cells_that_failed_are_shown():
    section = with_failed(Section("x", "X", (), ("found",)), ["with_a/s1: InputError: no such: store", "b: killed"])
    assert section.said == ("found", "2 cells failed and are left out.")
    assert "InputError: no such: store" in document("X", "", [section])
    assert with_failed(section, []) is section


def test_an_unknown_study_is_named():
    with pytest.raises(InputError, match="no study 'tides' is known"):
        study_section({"study": "tides", "findings": {}})
