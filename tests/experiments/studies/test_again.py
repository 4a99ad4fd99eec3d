"""A study, run to its end on a small world, gives the same report again from its folder, byte for byte."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml

import moon
from tests.experiments.conftest import MARKET, RECIPE
from tests.experiments.studies.test_exchange_rate import VERSIONS, written
from tests.moon_encoder.conftest import write_vision

CONCAT = [{"kind": "concat", "vectors": "content"}]
SIMTIER = [{"kind": "simtier", "vectors": "content", "sequence": "history"}]


def recipe(content: list[dict]) -> dict:
    """A ranker of one sequence, with vectors if it has a use for them."""
    tree = copy.deepcopy(RECIPE)
    tree["features"]["sequences"] = tree["features"]["sequences"][:1]
    tree["features"]["vectors"] = [{"name": "content"}] if content else []
    tree["model"] = {"sequences": {"history": {"kind": "mean"}}, "content": content, "tower": [8]}
    return tree


def studies(root: Path) -> dict[str, dict]:
    """The studies by name, with the files that they read."""
    for name, content in {"plain": [], "concat": CONCAT, "simtier": SIMTIER}.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(recipe(content)))
    vision = {"path": str(write_vision(root / "vision")), "trainable_from": 2}
    tower = {"encoder": {"kind": "dual_tower", "vision": vision, "matryoshka": [], "hidden": 8}}
    (root / "init.yaml").write_text(yaml.safe_dump(tower))
    searched = {"query": "image", "item": "image"}
    training = {"batch_size": 16, "epochs": 1, "steps_per_epoch": 2, "threads": 1}
    posttrain = {
        "name": "searches",
        "mix": [searched | {"weight": 1.0, "sources": ["search_image"]}],
        "train": training,
    }
    (root / "posttrain.yaml").write_text(yaml.safe_dump(posttrain | {"valid": [searched | {"source": "search_image"}]}))
    axes = [
        {"name": "batch", "title": "negatives", "of": "encoder", "values": [2, 4, 8, 16]}
        | {"set": ["train.batch_size={x}"]},
        {"name": "length", "title": "behaviours", "of": "ranker", "values": [1, 2, 4, 8]}
        | {"set": ["features.sequences.history.length={x}"]},
    ]
    steps = [
        {"name": "side", "title": "vector", "axis": "application", "version": "colour1", "recipe": "concat.yaml"},
        {"name": "counted", "title": "SimTier", "axis": "application", "version": "colour2", "recipe": "simtier.yaml"},
    ]
    return {
        "scaling": {"name": "small", "init": "init.yaml", "posttrain": "posttrain.yaml", "recipe": "plain.yaml"}
        | {"axes": axes, "seeds": [0, 1], "queries": 100},
        "iterations": {"name": "small", "id_only": "plain.yaml"}
        | {
            "world": MARKET,
            "versions": VERSIONS[:2],
            "steps": steps,
            "seeds": [0, 1],
            "draws": 100,
            "days": 1,
            "twins": True,
        },
    }


@pytest.mark.parametrize("name", ["scaling", "iterations"])
def test_the_same_report_again_also_where_a_cell_was_lost(name: str, market_root: Path, tmp_path: Path, capfd):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(studies(tmp_path)[name]))
    out = tmp_path / "out"
    words = ["study", name, str(tmp_path / "study.yaml"), "--out", str(out)]
    words += [] if name == "iterations" else ["--data", str(market_root / "data")]
    assert moon.main(words) == 0
    first = written(out)
    plots = [p for s in json.loads(first["report.json"]).values() for p in s["parts"].values() if p.get("rows")]
    assert len(plots) >= 3
    for lost in [*sorted((out / "runs").glob("*/s1"))[:1], *sorted(out.glob("versions/colour2"))]:
        shutil.rmtree(lost)
    for point in sorted(out.glob("points/*/4/s1")):
        shutil.rmtree(point)
    capfd.readouterr()
    assert moon.main(words) == 0
    assert capfd.readouterr().err.count(" done (") == 1
    assert written(out) == first
    assert moon.main(["report", str(out), "--out", str(tmp_path / "page.html"), "--draws", "100"]) == 0
    beside = json.loads((tmp_path / "page.json").read_text())
    assert {name: beside[name]["parts"] for name in json.loads(first["report.json"])} == {
        name: section["parts"] for name, section in json.loads(first["report.json"]).items()
    }
