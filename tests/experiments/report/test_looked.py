"""What a ranker looks at is what it computed: weights of CUBE and SA-TA, cosines of SimTier, shown with pictures."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import moon
from data.dataset import Dataset
from experiments.report.looked import Looked, look, mechanisms
from features.ranks import process_group
from features.store import Store
from ranker.build import load_ranker
from ranker.run_folder import RunFolder
from ranker.similarity_weights import SoftmaxWeights
from tests.conftest import write_store
from tests.experiments.conftest import RECIPE

MHA = {"kind": "mha", "heads": 2, "head_dim": 4, "similarity_attention": "content"}
HISTORIES = {
    "cube": ({"kind": "din", "hidden": [4]}, [{"kind": "cube", "vectors": "content", "sequences": ["history"]}]),
    "sa_ta": (MHA, []),
    "simtier": ({"kind": "mean"}, [{"kind": "simtier", "vectors": "content", "sequence": "history"}]),
}


@pytest.fixture(scope="module")
def looks(market_root: Path, tmp_path_factory: pytest.TempPathFactory):
    """The runs' folder, and by recipe what it looked at."""
    root, data = tmp_path_factory.mktemp("looked"), market_root / "data"
    store = write_store(root / "content", data)
    found: dict[str, Looked] = {}
    for name, (history, content) in HISTORIES.items():
        tree = copy.deepcopy(RECIPE) | {"name": name}
        tree["features"]["sequences"] = tree["features"]["sequences"][:1]
        tree["features"]["vectors"] = [{"name": "content"}]
        tree["model"] = {"sequences": {"history": history}, "content": content, "tower": [8]}
        (root / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        words = ["train", root / f"{name}.yaml", "--data", data, "--out", root / "runs" / name, "--store", store]
        assert moon.main([str(word) for word in words]) == 0
        looked = look(RunFolder(root / "runs" / name), Dataset(data), "test", 60)
        assert looked is not None
        found[name] = looked
    return root, found


def test_cosines_are_those_of_the_vectors(looks):
    root, found = looks
    vectors = Store(root / "content").current.vectors
    for looked in found.values():
        mine, target = (vectors(items)[0].astype(np.float64) for items in (looked.behaviour, looked.item))
        unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (mine, target)]
        cosine = looked.cosines["content"]
        known = np.isfinite(cosine)
        assert known.sum() > 50
        assert np.allclose(cosine[known], (unit[0] * unit[1][looked.sample]).sum(1)[known], atol=1e-5)


def test_weights_of_cube_are_a_softmax_of_cosines_by_the_learned_temperature(looks, market_root: Path):
    root, found = looks
    looked = found["cube"]
    with process_group() as ranks:
        model, _ = load_ranker(RunFolder(root / "runs" / "cube"), Dataset(market_root / "data"), ranks)
    (weights,) = (module for module in model.modules() if isinstance(module, SoftmaxWeights))
    temperature = float(weights.log_temperature.detach().exp())
    for sample in np.unique(looked.sample)[:20]:
        mine = looked.sample == sample
        scores = np.exp(np.nan_to_num(looked.cosines["content"][mine], nan=-np.inf) / temperature)
        assert np.allclose(looked.weights["CUBE"][mine], scores / max(scores.sum(), 1e-300), atol=1e-5)
    assert list(looked.weights) == ["DIN", "CUBE"] and looked.counted == ()


def test_an_attention_gives_shares_and_a_histogram_none(looks):
    _, found = looks
    (weights,) = found["sa_ta"].weights.values()
    totals = np.bincount(found["sa_ta"].sample, weights)
    assert np.allclose(totals, 1) and weights.std() > 0
    assert found["simtier"].weights == {} and found["simtier"].counted == ("content",)


def test_the_page_shows_each_kind_with_pictures_and_says_what_it_is(looks, tmp_path: Path):
    root, _ = looks
    assert mechanisms(RunFolder(root / "runs" / "sa_ta")) == {"history": ["SA-TA over multi-head attention"]}
    out = tmp_path / "page.html"
    assert moon.main(["report", str(root / "runs"), "--out", str(out), "--draws", "100"]) == 0
    found = {name: s for name, s in json.loads(out.with_suffix(".json").read_text()).items() if "attention" in name}
    parts = [section["parts"] for section in found.values()]
    columns = {tuple(part["users"]["columns"][3:]) for part in parts}
    assert columns == {
        ("DIN", "CUBE", "cosine in content"),
        ("SA-TA over multi-head attention", "cosine in content"),
        ("cosine in content",),
    }
    assert all(len({row[0] for row in part["users"]["rows"]}) == 4 for part in parts)
    assert sum("by-cosine" in part for part in parts) == 2
    assert "SimTier weighs nothing: it counts the cosines" in out.read_text()
