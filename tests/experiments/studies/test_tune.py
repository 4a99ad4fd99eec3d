"""`moon study tune`: starts from the recipe, never sees a test row, goes on where it stopped."""

import json

import pytest
import yaml

import moon
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.studies.tune import TuneConfig, search
from ranker.config import Recipe
from tests.ranker.conftest import TINY


@pytest.fixture(scope="module")
def done(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("tune")
    (root / "recipe.yaml").write_text(yaml.safe_dump(TINY | {"train": TINY["train"] | {"epochs": 1}}))
    space = {"train.dense.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    study = {"recipe": "recipe.yaml", "space": space, "trials": 2}
    (root / "tune.yaml").write_text(yaml.safe_dump(study))
    words = ["study", "tune", str(root / "tune.yaml"), "--data", str(small), "--out", str(root / "out")]
    assert moon.main(words) == 0
    return root, words


def test_the_first_trial_is_the_recipe_and_the_best_is_written(done):
    root, _ = done
    found = json.loads((root / "out" / "tuning.json").read_text())
    recipe = load_config(root / "recipe.yaml", Recipe)
    assert found["trials"][0]["settings"]["train.dense.lr"] == recipe.train.dense.lr
    assert found["value"] == max(trial["value"] for trial in found["trials"])
    best = load_config(root / "out" / "best.yaml", Recipe)
    assert best.train.dense.lr == found["settings"]["train.dense.lr"] and best.name == recipe.name
    assert not list((root / "out").rglob("predictions.parquet")) and not list((root / "out").rglob("metrics.json"))


def test_it_goes_on_from_its_runs(done, capfd):
    root, words = done
    before = (root / "out" / "tuning.json").read_text()
    assert moon.main(words) == 0
    assert " done (" not in capfd.readouterr().err and (root / "out" / "tuning.json").read_text() == before


def test_test_rows_and_wrong_spaces_are_refused(done, small, tmp_path):
    root, words = done
    recipe = load_config(root / "recipe.yaml", Recipe)
    study = load_config(root / "tune.yaml", TuneConfig)
    assert Dataset(small).meta["counts"]["test"]
    with pytest.raises(InputError, match="has test rows"):
        search(study, recipe, small, {}, tmp_path, 0)
    for change, told in (
        ('space={"train.nothing": {"low": 0, "high": 1}}', "no field 'train.nothing'"),
        ('space={"train.dense.lr": {"low": 1, "high": 2}}', "lies outside"),
    ):
        changed = load_config(root / "tune.yaml", TuneConfig, [change])
        with pytest.raises(InputError, match=told):
            search(changed, recipe, root / "out" / "dataset-without-test", {}, tmp_path, 0)
    assert moon.main([*words, "--shard", "0/2"]) == 2
