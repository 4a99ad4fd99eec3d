"""`moon study exchange-rate` on a small world: every cell is a run, nothing is done twice, findings are the runs'."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import moon
from data.config import parse_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.grid import Shard
from experiments.report.exchange import exchange_section, verdict
from experiments.studies.exchange_rate import ExchangeConfig, versions
from experiments.studies.iterations import IterationsConfig, gather
from experiments.studies.scaling import fewer_pairs
from experiments.studies.setting import Asked
from experiments.studies.versions import VersionConfig
from ranker.run_folder import RunFolder
from tests.experiments.conftest import RECIPE

VERSIONS = [{"name": f"colour{n}", "grid": n} for n in (1, 2, 3)]
VERSIONS += [{"name": "white", "grid": 3, "whiten": 8}, {"name": "shuffled", "shuffle": "colour3"}]


DATE = re.compile(rb"Made on \d{4}-\d\d-\d\d\.")


def written(out: Path) -> dict[str, bytes]:
    """The study's findings and report, without the date."""
    names = ("findings.json", "report.json", "report.html")
    found = {name: (out / name).read_bytes() for name in names}
    assert DATE.search(found["report.html"])
    return found | {"report.html": DATE.sub(b"", found["report.html"])}


@pytest.fixture(scope="module")
def done(market_root, tmp_path_factory):
    root = tmp_path_factory.mktemp("exchange")
    sequences = RECIPE["features"]["sequences"][:1]
    plain = RECIPE | {"features": RECIPE["features"] | {"sequences": sequences}}
    plain["model"] = {"sequences": {"history": {"kind": "mean"}}, "tower": [8]}
    reading = plain | {"features": plain["features"] | {"vectors": [{"name": "content"}]}}
    reading["model"] = plain["model"] | {"content": [{"kind": "concat", "vectors": "content"}]}
    (root / "plain.yaml").write_text(yaml.safe_dump(plain))
    (root / "reading.yaml").write_text(yaml.safe_dump(reading))
    study = {"name": "small", "id_only": "plain.yaml", "recipe": "reading.yaml", "versions": VERSIONS, "queries": 200}
    (root / "study.yaml").write_text(yaml.safe_dump(study | {"set": ["train.batch_size=1024"]}))
    words = ["study", "exchange-rate", str(root / "study.yaml"), "--data", str(market_root / "data")]
    words += ["--out", str(root / "out")]
    assert moon.main([*words, "--shard", "0/2"]) == 2  # the other half is another process's
    assert moon.main([*words, "--shard", "1/2"]) == 0
    return root, words


def test_findings_are_those_of_the_runs(done):
    root, _ = done
    found = json.loads((root / "out" / "findings.json").read_text())["findings"]
    assert [v["name"] for v in found["versions"]] == [v["name"] for v in VERSIONS] and found["seeds"] == [0, 1, 2]
    for version in found["versions"]:
        for seed, gain in zip(found["seeds"], version["gains"]["auc"], strict=True):
            mine, base = (
                json.loads((root / "out" / "runs" / name / f"s{seed}" / "metrics.json").read_text())["auc"]
                for name in (f"with_{version['name']}", "id_only")
            )
            assert gain == pytest.approx(mine - base)
        assert {"image_search_hr@10", "next_item", "category", "contrastive"} <= set(version["metrics"])
    by_name = {v["name"]: v["metrics"] for v in found["versions"]}
    assert by_name["shuffled"]["image_search_mrr"]["value"] < by_name["colour3"]["image_search_mrr"]["value"]
    assert {"auc", "gauc", "categories", "without_shuffled"} <= set(found["rates"]["image_search_hr@10"])


def test_a_second_call_trains_nothing_and_writes_the_same(done, capfd):
    root, words = done
    before = written(root / "out")
    assert moon.main(words) == 0
    assert " done (" not in capfd.readouterr().err
    assert before == written(root / "out")
    assert moon.main([*words, "--set", "queries=300"]) == 2
    assert "another study than this one" in capfd.readouterr().err


def test_a_cell_and_a_version_that_were_lost_come_out_the_same(done, capfd):
    root, words = done
    before = written(root / "out")
    for lost in ("runs/with_colour1/s1", "versions/colour2"):
        shutil.rmtree(root / "out" / lost)
    assert moon.main(words) == 0
    assert capfd.readouterr().err.count(" done (") == 1
    assert before == written(root / "out")


def test_a_version_that_cannot_be_made_is_told_and_the_others_go_on(market_root, tmp_path, capsys):
    tree = {"name": "x", "id_only": "a", "recipe": "b", "queries": 50}
    tree["versions"] = [*VERSIONS, {"name": "gone", "init": "nowhere"}]
    asked = Asked(tmp_path, tmp_path / "out", None, 0, Shard(), None)
    measured, stores, failed = versions(
        parse_config(tree, ExchangeConfig, "test"), asked, Dataset(market_root / "data")
    )
    assert list(measured) == list(stores) == [v["name"] for v in VERSIONS]
    assert len(failed) == 1 and failed[0].startswith("gone: InputError: ") and failed[0] in capsys.readouterr().err


def test_points_that_fail_are_told_and_tried_again(market_root, tmp_path, capsys):
    axis = {"name": "width", "title": "width", "of": "encoder", "values": [1, 2, 4, 8]}
    study = {"name": "x", "init": "nowhere", "posttrain": "nowhere", "recipe": "nowhere", "axes": [axis]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"seeds": [0, 1]}))
    words = ["study", "scaling", str(tmp_path / "study.yaml"), "--data", str(market_root / "data")]
    for _ in range(2):
        assert moon.main([*words, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("width-") == 8 and "fewer than two seeds have all their points" in error
        assert len(list((tmp_path / "out").glob("points/width/*/s*/point.failed"))) == 8


def test_the_page_shows_every_metric_and_the_verdict_follows_the_intervals(done):
    root, _ = done
    found = json.loads((root / "out" / "findings.json").read_text())["findings"]
    section = exchange_section(found)
    names = {part.name for part in section.parts if hasattr(part, "name")}
    assert {"rates", "scatter-image_search_hr10", "scatter-category"} <= names
    for rate in found["rates"].values():
        rate["auc"] |= {"low": -1.0, "high": 1.0}
    assert "nothing here is fit to steer by" in verdict(found)[0]
    category = found["rates"]["category"]
    category["auc"] |= {"low": 0.1, "high": 0.2, "r2": 1.0}
    category["without_shuffled"]["auc"] |= {"low": -0.1, "high": 0.2}
    assert "nothing here is fit to steer by" in verdict(found)[0]
    category["without_shuffled"]["auc"] |= {"low": 0.1}
    assert "neighbours of the same category" in verdict(found)[0]
    assert moon.main(["report", str(root / "out"), "--out", str(root / "page.html")]) == 0
    assert "Exchange rate" in (root / "page.html").read_text()


def test_a_waterfall_of_the_same_runs_adds_up(done, market_root):
    root, _ = done
    step = {"title": "a step", "axis": "model", "recipe": "x"}
    steps = [step | {"name": f"with_{name}", "version": name} for name in ("colour1", "white")]
    tree = {"name": "x", "id_only": "x", "versions": VERSIONS, "steps": steps, "draws": 100}
    study = parse_config(tree, IterationsConfig, "test")
    names = ("id_only", "with_colour1", "with_white")
    runs = [RunFolder(root / "out" / "runs" / name / f"s{seed}") for name in names for seed in (0, 1, 2)]
    found = gather(study, Dataset(market_root / "data"), runs)
    first, second = found["steps"]
    assert second["whole"]["auc"]["seeds"]["delta"] == pytest.approx(
        first["own"]["auc"]["seeds"]["delta"] + second["own"]["auc"]["seeds"]["delta"]
    )
    assert found["start"]["auc"]["mean"] + second["whole"]["auc"]["seeds"]["delta"] == pytest.approx(
        second["levels"]["auc"]["mean"]
    )


def test_fewer_pairs_are_drawn_ones_and_the_rest_is_shared(market_root, tmp_path):
    import polars as pl

    dataset = Dataset(market_root / "data")
    view = fewer_pairs(dataset, tmp_path / "view", 5, seed=1)
    pairs = [pl.read_parquet(d.root / "pairs" / "search.parquet") for d in (dataset, view)]
    train = [p.filter(pl.col("split") == "train", pl.col("query_image").is_not_null()) for p in pairs]
    assert len(train[1]) == 5 and set(train[1]["query_image"]) <= set(train[0]["query_image"])
    rest = [p.filter(pl.col("split") != "train") for p in pairs]
    assert rest[0].equals(rest[1]) and np.array_equal(view.behaviors().item, dataset.behaviors().item)
    with pytest.raises(InputError, match="the axis asks for"):
        fewer_pairs(dataset, tmp_path / "more", 10**6, seed=1)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"name": "a"}, "exactly one of grid, init, pretrain and shuffle"),
        ({"name": "a", "grid": 2, "stages": [{"config": "x"}]}, "stages belong to init or pretrain"),
    ],
)
def test_a_version_is_made_in_one_way(tree, told):
    with pytest.raises(InputError, match=told):
        parse_config(tree, VersionConfig, "test")


def test_versions_must_be_told_apart():
    tree = {"name": "x", "id_only": "a", "recipe": "b", "versions": [*VERSIONS[:4], {"name": "s", "shuffle": "nobody"}]}
    with pytest.raises(InputError, match="names no version before it"):
        parse_config(tree, ExchangeConfig, "test")


def test_shards(monkeypatch):
    assert Shard.parse("1/3") == Shard(1, 3) and [Shard(1, 3).mine(i) for i in range(4)] == [False, True, False, False]
    assert Shard.parse(None).mine(7)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    assert Shard.parse("auto") == Shard(2, 4)
    for text in ("3/3", "x", "1"):
        with pytest.raises(InputError, match="give I/N"):
            Shard.parse(text)
