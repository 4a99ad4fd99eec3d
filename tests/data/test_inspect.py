"""`moon inspect`: figures recounted in plain Python, warnings for what is unhealthy, one line for a path of no kind."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

import moon
from data.config import load_config
from data.dataset import SPLITS, Dataset
from data.inspect import inspect, text
from data.prepare import prepare
from data.source import About, Split
from features.ranks import process_group
from ranker.config import Recipe
from ranker.train import train
from tests.data.toy_log import T0, ToyLog, random_rows
from tests.ranker.conftest import TINY


def test_figures_of_a_dataset(small):
    found, dataset = inspect(small), Dataset(small)
    rows = {s: dataset.samples(s).collect() for s in SPLITS}
    shown = rows["train"]["item"].to_list()
    for split, frame in rows.items():
        facts = found["splits"][split]
        assert facts["rows"] == len(frame) and facts["ctr"] == pytest.approx(sum(frame["label"]) / len(frame))
        assert facts["users"] == len(set(frame["user"])) and facts["items"] == len(set(frame["item"]))
        assert (facts["first"], facts["last"]) == (min(frame["ts"]), max(frame["ts"]))
        if split != "train":
            times = [shown.count(i) for i in frame["item"]]
            assert facts["new_item_rows_share"] == pytest.approx(sum(n == 0 for n in times) / len(times))
            assert facts["cold_item_rows_share"] == pytest.approx(sum(n < 10 for n in times) / len(times))
    assert found["splits"]["test"]["cold_item_rows_share"] > 0
    lengths = sorted(rows["test"]["history_end"])
    assert found["histories"]["length"]["q0"] == lengths[0] and found["histories"]["length"]["q100"] == lengths[-1]
    assert abs(found["histories"]["length"]["q50"] - lengths[len(lengths) // 2]) <= 1
    actions = dataset.behaviors().action.tolist()
    assert found["histories"]["behaviors_by_action"] == {"disliked": actions.count(0), "liked": actions.count(1)}
    items = dataset.items().collect()
    assert found["missing"]["item.first_seen_ts"] == items["first_seen_ts"].null_count() / len(items) > 0
    assert found["missing"]["item.image_key"] == 1.0 and "item.title" not in found["missing"]
    assert "column item.image_key is null in 100% of its rows" in found["warnings"]
    counts = [f"{e}_{n}" for e in ("item", "user") for n in ("impressions", "positives")]
    assert found["columns"]["sample"] == ["ts", *counts] and found["columns"]["behaviour"] == ["action", "rating"]
    assert {"title", "genres", "year"} < set(found["columns"]["item"])
    assert "columns of behaviours: action, rating, age, position\n" in text(found)


def test_the_command_prints_and_writes(small, tmp_path, capsys):
    assert moon.main(["inspect", str(small), "--json", str(tmp_path / "figures.json")]) == 0
    out = capsys.readouterr().out
    counts = Dataset(small).meta["counts"]
    for part in ("dataset movielens_posters (", f"{counts['items']:,} items", f"{counts['train']:,} rows", "  test  "):
        assert part in out
    assert "audit: 24 checks passed" in out and "0 rejected" in out and "histories (test): q0 " in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["counts"] == counts and figures["fingerprint"] == Dataset(small).fingerprint


def test_what_is_unhealthy_is_a_warning(tmp_path):
    """Labels that shift, one class only, new items, few histories, rejected rows, images that went away."""
    early = random_rows(600).with_columns(label=pl.when("sample").then(pl.lit(1.0)))
    late = random_rows(300, seed=1).with_columns(pl.col("item_id") + 5000, pl.col("user_id") + 1, pl.col("ts") + 4000)
    late = late.with_columns(label=pl.when("sample").then((pl.int_range(pl.len()) % 4 == 0).cast(pl.Float64)))
    late = late.with_columns(action=pl.lit(None, pl.Int8)).filter("sample")
    bad = late.head(2).with_columns(label=pl.lit(9.0))

    class WithImages(ToyLog):
        @property
        def about(self) -> About:
            about = super().about
            gone = {"kind": "dir", "path": str(tmp_path / "gone"), "role": "item"}
            return About(about.name, about.label, about.actions, about.split, about.side, about.context, (gone,))

    split = Split(rule="temporal", cuts=(T0 + 4000, T0 + 6000))
    prepare(WithImages(pl.concat([early, late, bad]).sort("ts"), split), tmp_path / "out", 0.5)
    found = inspect(tmp_path / "out")
    told = "\n".join(found["warnings"])
    rate = found["splits"]["test"]["ctr"]
    for warning in (
        f"the label rate is 1.0000 in train and {rate:.4f} in test: calibration will be off",
        "split train has one class only: no AUC",
        "100% of valid rows show items without a train row",
        "of histories are empty",
        f"image store {tmp_path / 'gone'}: not there any more",
        "2 raw rows were rejected (rejected.parquet)",
    ):
        assert warning in told
    assert "rejected 2: label is outside {0, 1}" in text(found)


def test_a_catalogue_without_a_log(tmp_path):
    catalogue = pl.DataFrame({"item_id": [3, 1, 2], "title": ["c", None, "b"]})
    prepare(ToyLog(random_rows(1), Split(rule="none"), catalogue=catalogue), tmp_path / "out")
    found = inspect(tmp_path / "out")
    assert found["splits"] == {} and found["histories"] is None and found["counts"]["items"] == 3
    assert found["missing"]["item.title"] == pytest.approx(1 / 3)
    assert "3 items" in text(found)


def test_images_are_counted_where_they_are(shared, tmp_path):
    from data.sources.movielens_posters import MovielensPosters

    prepare(MovielensPosters(shared / "datasets" / "movielens_posters"), tmp_path / "out")
    found = inspect(tmp_path / "out")
    poster = next(i for i in found["images"] if i["role"] == "poster")
    keys = Dataset(tmp_path / "out").items().collect()["image_key"]
    assert poster["item_share"] == pytest.approx(1 - keys.null_count() / len(keys), abs=0.001)
    assert poster["images"] > 13_000 and found["splits"]["train"]["rows"] == 243_692


def test_figures_of_a_run(small, tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    recipe = load_config(tmp_path / "tiny.yaml", Recipe, ["train.epochs=1"])
    with process_group() as ranks:
        train(recipe, Dataset(small), tmp_path / "run", ranks, resume=False)
    capsys.readouterr()
    assert moon.main(["inspect", str(tmp_path / "run"), "--json", str(tmp_path / "figures.json")]) == 0
    out = capsys.readouterr().out
    for part in (
        "run tiny, seed 0, on ",
        "; torch ",
        str(small),
        "sequences: rated of 20",
        "last step: step ",
        "test: auc ",
    ):
        assert part in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["metrics"]["test"] == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"last", "best"} <= set(figures["checkpoints"])
    assert figures["meta"]["dataset"]["fingerprint"] == Dataset(small).fingerprint


@pytest.mark.parametrize("path", ["", "nothing"])
def test_a_path_of_no_kind_is_one_line(tmp_path, path, capsys):
    assert moon.main(["inspect", str(tmp_path / path)]) == 2
    told = capsys.readouterr().err
    kinds = (
        "neither a prepared dataset (dataset.json), nor a store (v00000001/meta.json), nor an encoder (encoder.json), "
        "nor a run (config.yaml), nor an exported model (current/package.json)"
    )
    message = f"moon inspect: {tmp_path / path}: {kinds}\n"
    assert told == message and Path(tmp_path).is_dir()
