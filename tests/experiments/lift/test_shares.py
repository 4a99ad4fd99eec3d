"""The study's vectors come from pixels alone, and its means are those of its worlds."""

import json

import numpy as np
import polars as pl
import pytest
import yaml

import moon
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.lift import headroom
from experiments.lift.headroom import STEPS
from experiments.lift.shares import CONFIGS, DIM, SharesConfig, pixel_store, recipes
from experiments.lift.shares_report import gather, markdown
from experiments.page import alone
from experiments.report.shares import shares_section
from features.ranks import process_group
from features.store import Store
from moon_encoder.checkpoint import build_encoder, save_encoder
from moon_encoder.config import DualTowerConfig
from ranker.build import load_ranker
from ranker.run_folder import RunFolder
from tests.moon_encoder.conftest import write_vision

STUDY = CONFIGS.parent / "studies" / "lift.yaml"


def world_of(**ctr: tuple[float, float]) -> dict:
    """Figures of a test: true CTR of each arm, overall and on new items."""
    base = ctr["id_only"][0]
    arms = {}
    for name, levels in ctr.items():
        parts = zip(("all", "new_items"), levels, strict=True)
        arms[name] = {
            "slices": {part: {"true_ctr": {"level": {"value": value}}} for part, value in parts},
            "metrics": {"true_ctr": {"lift": {"value": levels[0] / base - 1}, "headroom": {"value": 0.25}}},
            "offline": {"auc": 0.7, "gauc": 0.6 + levels[0], "gauc_search": 0.9 - levels[0]},
        }
    return {"arms": arms}


def test_vectors_are_measured_once_and_tell_the_style(world, market_root, tmp_path):
    dataset = Dataset(market_root / "data")
    pixel_store(dataset, tmp_path / "store")
    version = Store(tmp_path / "store").current
    assert version.meta["encoder"] == "pixel-measures" and version.meta["coverage"] == 1 and version.meta["dim"] == DIM
    vectors, _ = version.vectors(np.arange(len(world.items)))
    wide = np.column_stack([vectors, np.ones(len(vectors))])
    light = world.items.vector[:, 2]
    residual = light - wide @ np.linalg.lstsq(wide, light, rcond=None)[0]
    assert 1 - residual.var() / light.var() > 0.15  # chance: DIM of 520 = .03; the photos have 16 pixels a side
    pixel_store(dataset, tmp_path / "store")
    assert Store(tmp_path / "store").current.number == version.number


def test_figures_are_means_over_worlds():
    even = {"id_only": (0.1, 0.05), "cube_shuffled": (0.1, 0.05), "oracle": (0.2, 0.2)}
    worlds = {(0.0, seed): world_of(**even, cube=(0.1 * (1 + by), 0.05)) for seed, by in enumerate((-0.01, 0, 0.01))}
    worlds |= {(0.5, seed): world_of(**even, cube=(0.12, 0.1)) for seed in range(3)}
    worlds |= {(0.0, 3): world_of(**even, cube=(0.1, 0.05))}
    found = gather([0.0, 0.5], ["cube"], worlds)
    none, half = found["arms"]["cube"]
    assert none["seeds"] == [0, 1, 2, 3] and half["seeds"] == [0, 1, 2] and found["seeds"] == [0, 1, 2, 3]
    logs = np.log([0.99, 1, 1.01, 1])
    reach = 3.18245 * logs.std(ddof=1) / 2
    assert none["all"]["low"] == pytest.approx(np.expm1(logs.mean() - reach), rel=1e-4)
    assert none["all"]["low"] < 0 < none["all"]["high"] and none["content"]["all"] == none["all"]
    assert [half["all"][k] for k in ("value", "low")] == pytest.approx([0.2, 0.2])
    assert half["new_items"]["value"] == pytest.approx(1.0) and half["oracle"]["value"] == pytest.approx(1.0)
    slopes = [(np.log(1.2) - np.log(x)) / 0.5 for x in (0.99, 1, 1.01)]  # seed 3 has no world at share .5
    rise = found["rise"]["cube"]["content"]
    assert rise["slopes"] == pytest.approx(slopes) and rise["value"] == pytest.approx(np.mean(slopes))
    last = found["agreement"][-1]
    assert list(last["gauc"]["offline"]) == ["id_only", "cube", "cube_shuffled"]
    assert last["gauc"]["tau"] == pytest.approx(1) and last["gauc_search"]["tau"] == pytest.approx(-1)
    text = markdown(found)
    assert "+20.0%" in text and "| 0.5 | 3 |" in text
    assert alone(shares_section(found)).count('role="img"') == 4
    one = alone(shares_section(gather([0.5], ["cube"], {key: world for key, world in worlds.items() if key[0] == 0.5})))
    assert one.count('role="img"') == 4 and "+20.0% [+20.0%, +20.0%] at content share 0.5" in one


def test_the_rise_is_a_regression_with_the_seeds_apart_and_a_trend_from_share_to_share():
    rng = np.random.default_rng(3)
    shares, seeds, worlds, x, y = [0.6, 0.0, 0.3, 0.15], 3, {}, [], []
    for seed in range(seeds):
        for share in shares:
            log = 0.4 * share + 0.05 * seed + rng.normal(0, 0.02)
            levels = {"id_only": (0.1, 0.1), "oracle": (0.3, 0.3), "cube": (0.1 * np.exp(log), 0.1)}
            worlds[share, seed] = world_of(**levels)
            x.append([share, *(np.arange(seeds) == seed)])
            y.append(log)
    rise = gather(shares, ["cube"], worlds)["rise"]["cube"]["id_only"]
    design, logs = np.array(x, float), np.array(y)
    fitted, rest, *_ = np.linalg.lstsq(design, logs, rcond=None)
    error = np.sqrt(rest[0] / (12 - 4) * np.linalg.inv(design.T @ design)[0, 0])
    assert rise["value"] == pytest.approx(fitted[0])
    assert rise["high"] - rise["value"] == pytest.approx(2.306004 * error, rel=1e-5)
    other = dict(zip(sorted(shares), sorted(shares, reverse=True), strict=True))
    falling = {(share, seed): worlds[other[share], seed] for share, seed in worlds}
    assert rise["p"] < 0.01 < 0.9 < gather(shares, ["cube"], falling)["rise"]["cube"]["id_only"]["p"]


def test_a_study_s_recipes_are_the_control_the_arms_and_their_twins():
    config = load_config(STUDY, SharesConfig)
    assert config.shares[0] == 0 and len(config.shares) >= 5 and len(config.seeds) >= 3
    found = {recipe.name: recipe for recipe in recipes(config, 4)}
    assert list(found) == ["id_only", "cube", "cube_shuffled"]
    assert not found["id_only"].features.vectors and {recipe.seed for recipe in found.values()} == {4}
    (real,), (twin,) = found["cube"].features.vectors, found["cube_shuffled"].features.vectors
    assert real.shuffle is None and twin.shuffle == 4
    assert all(recipe.train.epochs == 1 for recipe in found.values())
    assert config.worlds()[:2] == [(0.0, 0), (0.15, 0)] and config.worlds()[-1] == (0.0, 6)


def test_a_study_plays_its_worlds_and_goes_on_where_it_was(tmp_path, capsys):
    config = {
        "shares": [0.0],
        "seeds": [5],
        "arms": {"simtier": {"recipe": "marketplace_simtier", "twin": False}},
        "train": ["train.epochs=1", "train.batch_size=256"],
        "days": 1,
        "world": {"days": 4, "items": 200, "users": 60, "sessions_per_day": 80, "image_size": 16, "image_queries": 0},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    words = ["study", "lift", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    assert moon.main([*words, "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    (row,) = found["arms"]["simtier"]
    assert row["seeds"] == [5] and row["all"]["value"] is not None and row["all"]["low"] is None
    played = (tmp_path / "out" / "seed-5" / "share-0" / "lift" / "arms" / "simtier.npz").stat().st_mtime_ns
    assert moon.main(words) == 0
    assert json.loads((tmp_path / "out" / "shares.json").read_text()) == found
    again = (tmp_path / "out" / "seed-5" / "share-0" / "lift" / "arms" / "simtier.npz").stat().st_mtime_ns
    assert again == played and "## simtier" in capsys.readouterr().out
    root = tmp_path / "out" / "seed-5" / "share-0"
    assert headroom.main([str(root), "--arm", "simtier", "--json", str(tmp_path / "room.json")]) == 0
    (room,) = json.loads((tmp_path / "room.json").read_text())["worlds"]
    assert room["control"]["headroom"] == 0 and room["oracle"]["headroom"] == 1 and set(room) == {*STEPS, "oracle"}
    assert "## Where the headroom is" in capsys.readouterr().out
    with pytest.raises(InputError, match="give a finished world of moon study lift"):
        headroom.main([str(root), "--arm", "cube"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config | {"refresh": {"model": True}}))
    assert moon.main(words) == 0 and json.loads((root / "lift" / "lift.json").read_text())["refresh"]["model"]
    assert (root / "lift" / "arms" / "simtier.npz").stat().st_mtime_ns != played
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config | {"more_seeds": {0.3: [7]}}))
    assert moon.main(words) == 2 and "more_seeds.0.3: not one of the shares" in capsys.readouterr().err


def test_arms_that_cannot_be_played_are_refused_before_a_world_is_made(tmp_path, capsys):
    for recipe, told in (
        ("marketplace_cube_queries", "vectors 'asked' are of queries; give the study an encoder that reads them"),
        ("marketplace_end_to_end", "give the study an encoder to start from (encoder: DIR)"),
    ):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({"arms": {"moon": {"recipe": recipe}}}))
        words = ["study", "lift", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
        assert moon.main(words) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_arms_of_the_study_s_encoder_are_trained_and_played(tmp_path):
    """End to end, and with the searches: of the queries those that are photos have vectors."""
    vision = {"path": str(write_vision(tmp_path / "vision")), "trainable_from": 2}
    encoder = build_encoder(DualTowerConfig.model_validate({"vision": vision, "matryoshka": [], "hidden": 8}))
    save_encoder(encoder, tmp_path / "encoder", "small", "initial")
    world = {"days": 4, "items": 150, "users": 60, "sessions_per_day": 100, "image_queries": 0.5, "image_size": 16}
    study = {"shares": [0.4], "seeds": [0], "days": 1, "world": world, "encoder": str(tmp_path / "encoder")}
    queries = {"recipe": "marketplace_cube_queries", "twin": False}
    study["arms"] = {"moon": {"recipe": "marketplace_end_to_end"}, "queries": queries}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"train": ["train.epochs=1"]}))
    assert moon.main(["study", "lift", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "shares.json").read_text())
    assert np.isfinite(found["arms"]["moon"][0]["content"]["all"]["value"])
    root = tmp_path / "out" / "seed-0" / "share-0.4"
    tables = []
    with process_group() as ranks:
        for name in ("moon", "moon_shuffled"):
            model, _ = load_ranker(RunFolder(root / "runs" / name / "s0"), Dataset(root / "data"), ranks)
            (shard,) = model.state_dict()["vectors.collections.content.embeddings.content.weight"].local_shards()
            tables.append(shard.tensor[1:].numpy())
    (asked,), (store,) = root.glob("queries-*"), root.glob("store-*")
    version, days = Store(asked).current, [100 * day for day in range(6)]
    photos = version.item_ids.filter(pl.Series(version.present)).str.extract(r"query-(\d+)").cast(pl.Int64)
    assert 10 < photos.is_between(days[4], days[5], closed="left").sum() < photos.is_between(0, days[4] - 1).sum()
    assert version.number == 2 and photos.max() < days[5]  # the day played stands behind those of the logs
    stored = Store(store).current.vectors(np.arange(len(tables[0])))[0]
    assert all(np.abs(rows - stored).max() > 1e-3 for rows in tables)  # trained, each from the store's
