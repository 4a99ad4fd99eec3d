"""Surprise of a behaviour against a walk through the log, and where it cannot be known."""

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from features.encoder import FeatureEncoder
from features.loader import Loader
from features.samples import SampleEncoder
from features.spec import FeatureSpec
from features.surprise import STRENGTH, own_behaviour, surprises
from tests.conftest import write_ratings


def spec(*numbers: str) -> FeatureSpec:
    features = [
        {"kind": "id", "name": "item", "column": "item"},
        {"kind": "id", "name": "year", "column": "item.year"},
        {"kind": "ids", "name": "genres", "column": "item.genres"},
    ]
    sequence = {"name": "rated", "length": 9, "fields": ["item"], "numbers": numbers}
    return FeatureSpec.model_validate({"features": features, "sequences": [sequence]})


def test_every_behaviour_of_a_real_log_equals_the_walk(small):
    dataset = Dataset(small)
    behaviors = dataset.behaviors()
    found = surprises(dataset, behaviors)
    parts = {split: dataset.samples(split).collect() for split in ("train", "valid", "test")}
    train = parts["train"]
    prior = train["label"].mean()
    expected = {}
    for part in parts.values():
        for row in part.iter_rows(named=True):
            before = train.filter((pl.col("item") == row["item"]) & (pl.col("ts") < row["ts"]))
            rate = (before["label"].sum() + STRENGTH * prior) / (len(before) + STRENGTH)
            expected[row["user"], row["item"], row["ts"]] = row["label"] - rate
    users = np.repeat(np.arange(len(behaviors.offsets) - 1), np.diff(behaviors.offsets))
    keys = zip(users.tolist(), behaviors.item.tolist(), behaviors.ts.tolist(), strict=True)
    np.testing.assert_allclose(found, [expected[key] for key in keys], atol=1e-6)
    assert (np.abs(found) > 0.05).mean() > 0.9 and np.array_equal(found, surprises(dataset, behaviors))


def test_ties_within_a_second_find_their_own_behaviour(tmp_path):
    raw = write_ratings(tmp_path / "raw")
    rows = pl.read_parquet(raw / "ratings.parquet").with_columns(pl.col("ts") // 4000 * 4000)
    rows.sort("ts", "user_id", "item_id").write_parquet(raw / "ratings.parquet")
    prepare(MovielensPosters(raw), tmp_path / "data")
    dataset = Dataset(tmp_path / "data")
    behaviors = dataset.behaviors()
    samples = dataset.samples("train").collect()
    place, found = own_behaviour(behaviors, samples)
    assert found.all() and len(np.unique(place)) == len(place)
    assert np.array_equal(behaviors.item[place], samples["item"]) and np.array_equal(behaviors.ts[place], samples["ts"])
    ties = samples.group_by("user", "ts").len()
    assert ties["len"].max() > 3  # pyright: ignore
    stranger = samples.with_columns(item=pl.lit(79, pl.Int32)).filter(pl.col("item") != samples["item"])
    assert not own_behaviour(behaviors, stranger)[1].any()


def test_numbers_come_with_their_behaviours(small):
    dataset = Dataset(small)
    numbers = ("surprise", "action", "rating", "age")
    samples = SampleEncoder(FeatureEncoder.fit(spec(*numbers), dataset), dataset)
    batch = next(Loader(samples, "valid", 50).epoch())
    sequence, behaviors = batch.sequences["rated"], dataset.behaviors()
    frame = dataset.samples("valid").collect()
    surprise = surprises(dataset, behaviors)
    for i in range(50):
        mine = (sequence.row == i).numpy()
        end = int(behaviors.offsets[frame["user"][i]]) + frame["history_end"][i]
        places = np.arange(end - mine.sum(), end)
        assert mine.sum() == min(9, frame["history_end"][i])
        np.testing.assert_allclose(sequence.numbers["surprise"].numpy()[mine], surprise[places])
        np.testing.assert_allclose(sequence.numbers["rating"].numpy()[mine], behaviors.side["rating"][places])
        assert np.array_equal(sequence.numbers["action"].numpy()[mine], behaviors.action[places])
        np.testing.assert_allclose(sequence.numbers["age"].numpy()[mine], frame["ts"][i] - behaviors.ts[places])


def test_whether_an_item_shares_the_target_s_value(small):
    dataset = Dataset(small)
    samples = SampleEncoder(FeatureEncoder.fit(spec("same.year"), dataset), dataset)
    batch = next(Loader(samples, "valid", 200).epoch())
    year = dataset.items().collect()["year"].to_numpy()
    s, items = batch.sequences["rated"], batch.items.numpy()
    expected = year[items[s.item]] == year[items[batch.target]][s.row]
    assert np.array_equal(s.numbers["same.year"].numpy() > 0, expected) and 0 < expected.mean() < 1


def test_mistakes_are_named(small):
    with pytest.raises(ValueError, match=r"'same.genres' needs an item feature of one value \(those are: item, year\)"):
        spec("same.genres")
    with pytest.raises(
        InputError, match=r"sequence 'rated': no number 'stars' \(there are: action, .*surprise.*rating"
    ):
        FeatureEncoder.fit(spec("stars"), Dataset(small))
    memory = Dataset(small).behaviors()
    from dataclasses import replace

    with pytest.raises(InputError, match="held in memory need a side column 'surprise'"):
        surprises(Dataset(small), replace(memory, root=None))
    given = replace(memory, root=None, side={"surprise": np.ones(3)})
    assert surprises(Dataset(small), given).tolist() == [1, 1, 1]
    lacking = Dataset(small)
    lacking.meta = lacking.meta | {"sample_columns": {}}
    with pytest.raises(InputError, match="cannot be known: samples have no column 'item_impressions'"):
        surprises(lacking, replace(memory, root=small / "nowhere"))
