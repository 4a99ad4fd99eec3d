"""The shipped recipes: each trains as it is, and the figures beside them are those that were measured."""

import json
import re
from pathlib import Path

import pytest
import yaml

import moon
from data.config import load_config
from ranker.config import Recipe

ROOT = Path(__file__).parents[2] / "experiments"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RESULTS = json.loads((ROOT / "results" / "movielens_recipes.json").read_text())["recipes"]
RANKERS = [path for path in CONFIGS if "features" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", RANKERS, ids=lambda path: path.stem)
def test_a_recipe_is_named_for_its_file_and_says_what_it_is(path):
    assert load_config(path, Recipe).name == path.stem
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", RESULTS)
def test_a_recipe_of_movielens_trains(name, small, tmp_path):
    words = ["train", str(ROOT / "configs" / f"{name}.yaml"), "--data", str(small), "--out", str(tmp_path / "run")]
    assert moon.main([*words, "--set", "train.batch_size=128", "--json", str(tmp_path / "m.json")]) == 0
    assert 0.5 < json.loads((tmp_path / "m.json").read_text())["auc"] < 1


@pytest.mark.parametrize("page", [ROOT / "configs" / "README.md", ROOT.parent / "README.md"], ids=["recipes", "front"])
@pytest.mark.parametrize("name", RESULTS)
def test_the_figures_on_a_page_are_the_measured_ones(name, page):
    facts = RESULTS[name]
    found = [facts["auc"], facts["gauc"], *(facts["slices"][s]["auc"] for s in ("cold_items", "new_items"))]
    cells = [f"{v['mean']:.4f} ± {v['sd']:.4f}" for v in found] + [f"{facts['pcoc']['mean']:.3f}"]
    row = re.search(rf"^\| `{name}` \| (.+) \|$", page.read_text(), re.M)
    assert row is not None and row[1].split(" | ") == cells
