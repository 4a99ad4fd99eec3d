"""Tuning: the same budget and first draws for everyone, replayed from its runs, and blind to the test split."""

import json
from pathlib import Path

import pytest

from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.ablation.cells import Recipes
from experiments.ablation.config import Choice, Study, Tuning
from experiments.ablation.tuning import Tuner, blind_view, planned, valid_metric
from experiments.grid import NOTHING
from features.encoder import FeatureEncoder
from ranker.run_folder import RunFolder
from tests.experiments.ablation.conftest import STUDY, write_study


def test_every_mechanism_gets_the_same_trials_and_the_best_on_valid_is_taken(done):
    _, out = done
    found = json.loads((out / "tuning.json").read_text())
    assert list(found) == ["din", "concat"]
    tried = {name: [t["settings"]["train.tables.lr"] for t in f["trials"]] for name, f in found.items()}
    assert tried["din"][0] == tried["concat"][0] == 0.1 and len(tried["din"]) == len(tried["concat"]) == 2
    assert tried["din"][1] == tried["concat"][1] != 0.1  # one sampler seed
    for name, f in found.items():
        values = [t["value"] for t in f["trials"]]
        assert f["value"] == max(values) and f["settings"] == f["trials"][values.index(max(values))]["settings"]
        recipe = RunFolder(out / "runs" / {"din": "din", "concat": "concat-frozen-4"}[name] / "s0").recipe()
        assert recipe.train.tables.lr == f["settings"]["train.tables.lr"]
        for k, value in enumerate(values):
            run = RunFolder(out / "tuning" / f"{name}-trial{k}" / "s1000")
            assert json.loads(run.metrics("valid").read_text())["auc"] == value


def test_a_mechanism_may_take_the_settings_of_another_and_has_no_trials_then(done, store, tmp_path):
    _, out = done
    third = STUDY["mechanisms"][1] | {"name": "again", "tuned_as": "concat"}
    study = load_config(write_study(tmp_path, mechanisms=[*STUDY["mechanisms"], third]), Study)
    assert study.tuning
    recipes, stores, blind = Recipes(study, tmp_path), {"image": store}, out / "dataset-without-test"
    found = Tuner(recipes, study.tuning, blind, stores, out / "tuning").run(0, NOTHING)
    assert list(found) == ["din", "concat", "again"] and found["again"] == found["concat"]
    assert len(planned(recipes, study.tuning, blind, stores)) == 4
    for other in ("again", "nothing"):
        with pytest.raises(
            InputError, match=f"no mechanism '{other}' with a search of its own .there are: din, concat"
        ):
            load_config(write_study(tmp_path, mechanisms=[*STUDY["mechanisms"], third | {"tuned_as": other}]), Study)


def test_no_test_figure_exists_for_the_tuner(done, small):
    _, out = done
    blind = Dataset(out / "dataset-without-test")
    with pytest.raises(InputError, match="split 'test' holds no rows"):
        blind.samples("test")
    assert not (blind.root / "samples" / "test").exists()
    trials = list((out / "tuning").glob("*/s1000"))
    assert len(trials) == 4
    for run in trials:
        assert not (run / "metrics.json").exists() and not (run / "predictions.parquet").exists()
        assert Path(json.loads((run / "meta.json").read_text())["dataset"]["path"]) == blind.root.resolve()
    spec = RunFolder(trials[0]).recipe().features
    assert FeatureEncoder.fit(spec, blind).fingerprint == FeatureEncoder.fit(spec, Dataset(small)).fingerprint


def test_the_tuner_refuses_test_rows_and_runs_that_were_scored_on_test(done, small, store, tmp_path):
    _, out = done
    study = load_config(write_study(tmp_path), Study)
    assert study.tuning
    with pytest.raises(InputError, match="has test rows; tuning must not see them"):
        Tuner(Recipes(study, tmp_path), study.tuning, small, {"image": store}, tmp_path / "tuning")
    with pytest.raises(InputError, match="was scored on the test split; the tuner refuses it"):
        valid_metric(RunFolder(out / "runs" / "din" / "s0"), "auc")


def test_a_view_of_another_dataset_is_not_taken_for_this_one(small, tmp_path):
    view = blind_view(Dataset(small), tmp_path / "view")
    assert blind_view(Dataset(small), view) == view
    meta = view / "dataset.json"
    meta.write_text(meta.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(InputError, match="a view of another dataset"):
        blind_view(Dataset(small), view)


def test_the_recipe_as_it_is_must_lie_in_the_space(small, store, tmp_path):
    view = blind_view(Dataset(small), tmp_path / "view")
    for space, message in (
        (
            {"train.tables.lr": Choice(low=0.2, high=0.4)},
            "0.1, the recipe's own value for mechanism 'din', lies outside",
        ),
        ({"train.lr": Choice(low=0.2, high=0.4)}, "has no field 'train.lr'"),
    ):
        tuning = Tuning(trials=1, space=space)  # pyright: ignore[reportCallIssue]
        study = load_config(write_study(tmp_path), Study)
        with pytest.raises(InputError, match=message):
            Tuner(Recipes(study, tmp_path), tuning, view, {"image": store}, tmp_path / "tuning").run(1)
