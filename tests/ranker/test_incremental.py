"""The next day's data on yesterday's model: rows move with their values, new ones join, idle ones go."""

import json

import numpy as np
import pytest
import torch
import yaml

import moon
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from features.encoder import FeatureEncoder
from features.ranks import process_group
from features.vocabulary import Vocabulary
from ranker.build import load_ranker
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.incremental import take_over
from ranker.local_parts import local_parts
from ranker.run_folder import RunFolder
from ranker.train import Trainer
from tests.conftest import write_ratings
from tests.ranker.conftest import TINY
from tests.ranker.test_train import losses


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """(recipe, run on the first day, dataset of the second, which has more users and films)."""
    root = tmp_path_factory.mktemp("days")
    prepare(MovielensPosters(write_ratings(root / "raw1", users=40, items=60)), root / "day1")
    prepare(MovielensPosters(write_ratings(root / "raw2", users=60, items=80)), root / "day2")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    command = ["train", str(root / "tiny.yaml"), "--data", str(root / "day1"), "--set", "train.epochs=6"]
    assert moon.main([*command, "--out", str(root / "run1")]) == 0
    return root / "tiny.yaml", RunFolder(root / "run1"), root / "day2"


def tables(model, optimizer=None):
    """Weights, and the sums of Adagrad, by table (TINY shares none)."""
    name = "tables.collections.dim8.embeddings.{}.weight"
    state = model.state_dict() if optimizer is None else optimizer.state_dict()["state"]
    found = {}
    for table in ("user", "item", "genres", "rated_rating"):
        value = state[name.format(table)] if optimizer is None else next(iter(state[name.format(table)].values()))
        found[table] = local_parts(value)[0].values.clone()
    return found


def test_rows_and_their_optimizer_state_move_with_their_values(days):
    config, previous, day2 = days
    recipe, dataset = load_config(config, Recipe), Dataset(day2)
    with process_group() as ranks:
        first, _ = load_ranker(previous, Dataset(day2), ranks)
        old, before = tables(first), FeatureEncoder.load(previous.encoder)
        trainer = Trainer(recipe, dataset, {}, RunFolder(day2 / "none"), ranks, ItemEncoders({}, {}, ranks), previous)
        fresh = tables(trainer.model)
        trainer.optimizers.allocate()
        take_over(previous, trainer.encoder, trainer.model, trainer.optimizers.all)
        new, sums = tables(trainer.model), tables(trainer.model, trainer.model.fused_optimizer)
    for table, vocabulary in trainer.encoder.vocabularies.items():
        then = before.vocabularies[table]
        assert set(then.values) <= set(vocabulary.values)
        assert torch.equal(new[table][vocabulary.encode(then.values)], old[table][then.encode(then.values)])
        assert torch.equal(new[table][0], old[table][0])
        joined = vocabulary.encode(np.setdiff1d(vocabulary.values, then.values))
        assert torch.equal(new[table][joined], fresh[table][joined])
        assert sums[table][vocabulary.encode(then.values)].any() and not sums[table][joined].any()
    assert len(trainer.encoder.vocabularies["user"].values) == 60 > len(before.vocabularies["user"].values)
    assert torch.equal(new["rated_rating"], old["rated_rating"])
    assert trainer.encoder.normalisers == before.normalisers
    dense = dict(first.module.named_parameters())
    for name, parameter in trainer.model.module.named_parameters():
        if "tables." not in name:
            assert torch.equal(parameter, dense[name])


def test_a_run_goes_on_from_yesterdays_and_is_resumed_as_such(days, tmp_path):
    config, previous, day2 = days
    day1 = str(day2.with_name("day1"))
    words = ["train", str(config), "--data", day1, "--set", "train.epochs=1", "--out"]
    assert moon.main([*words, str(tmp_path / "warm"), "--init", str(previous.root)]) == 0
    assert losses(tmp_path / "warm")[0] < losses(previous.root)[0] - 0.02
    assert json.loads((tmp_path / "warm" / "meta.json").read_text())["previous"] == str(previous.root)
    assert moon.main([*words, str(tmp_path / "warm"), "--resume"]) == 0
    assert moon.main(["eval", str(tmp_path / "warm")]) == 0


def test_another_model_is_not_taken_over(days, tmp_path, capsys):
    config, previous, day2 = days
    words = ["train", str(config), "--data", str(day2), "--out", str(tmp_path / "run"), "--init", str(previous.root)]
    assert moon.main([*words, "--set", "model.tower=[8]"]) == 2
    assert f"--init {previous.root}: its model differ from the recipe's" in capsys.readouterr().err
    assert moon.main([*words[:-1], str(tmp_path / "nothing")]) == 2
    assert "no run (config.yaml is missing)" in capsys.readouterr().err


def test_values_are_admitted_and_evicted():
    today = Vocabulary.fit(np.array([2, 5, 9]), np.array([3, 1, 4]), 2)  # 5 is rare
    first = Vocabulary.fit(np.array([1, 2, 3]), np.array([1, 1, 1]), 1)
    second = first.grown(today, np.array([2, 5, 9]), 2)
    assert second.values.tolist() == [1, 2, 3, 9] and second.idle is not None and second.idle.tolist() == [1, 0, 1, 0]
    third = second.grown(Vocabulary.fit(np.array([3]), np.array([1]), 1), np.array([3]), 2)
    assert third.values.tolist() == [2, 3, 9] and third.rows == 4  # 1 was not seen twice in a row
    assert third.rows_in(second).tolist() == [0, 2, 3, 4] and second.rows_in(first).tolist() == [0, 1, 2, 3, -1]
    assert first.grown(today, np.array([9]), None).values.tolist() == [1, 2, 3, 9]
    with pytest.raises(InputError, match="text cannot grow by numbers"):
        Vocabulary.fit(np.array(["a"]), np.array([1]), 1).grown(today, np.array([2]), None)
