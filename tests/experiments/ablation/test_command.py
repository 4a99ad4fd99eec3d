"""`moon study ablation` end to end: the report, resume, a failed cell, mistakes."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

import moon
from data.dataset import Dataset
from ranker.significance import bootstrap_auc, bootstrap_gauc
from tests.experiments.ablation.conftest import write_study


def runs(out, name):
    """Test predictions of a group's seeds, and their runs' folders."""
    folders = [out / "runs" / name / f"s{seed}" for seed in (0, 1)]
    return [pl.read_parquet(folder / "predictions.parquet") for folder in folders], folders


def test_figures_of_the_table_are_those_computed_by_hand(done, small):
    _, out = done
    report = json.loads((out / "report.json").read_text())
    groups = {group["name"]: group for group in report["groups"]}
    assert list(groups) == ["din", "concat-frozen-4", "concat-frozen-4-shuffled"]
    frames = {name: runs(out, name)[0] for name in groups}
    label, user = (frames["din"][0][c].to_numpy() for c in ("label", "user"))
    aucs = {n: np.array([roc_auc_score(label, f["score"].to_numpy()) for f in fs]) for n, fs in frames.items()}
    for name, group in groups.items():
        assert group["figures"]["auc"]["mean"] == pytest.approx(aucs[name].mean(), abs=1e-12)
        assert group["figures"]["auc"]["sd"] == pytest.approx(aucs[name].std(ddof=1), abs=1e-12)
    mean = {name: np.mean([f["score"].to_numpy() for f in fs], axis=0) for name, fs in frames.items()}
    real, twin = "concat-frozen-4", "concat-frozen-4-shuffled"
    content = groups[real]["content_gain"]
    assert content["rows"]["auc_by_user"] == pytest.approx(
        bootstrap_auc(label, mean[twin], mean[real], user, 100).as_dict()
    )
    assert groups[real]["gain"]["rows"]["gauc"] == pytest.approx(
        bootstrap_gauc(label, mean["din"], mean[real], user, 100).as_dict()
    )
    gain = aucs[real] - aucs[twin]
    low, high = stats.t.interval(0.95, 1, gain.mean(), gain.std(ddof=1) / np.sqrt(2))
    single = content["seeds"]["auc"]
    assert (single["delta"], single["low"], single["high"]) == pytest.approx((gain.mean(), low, high))
    cold = (Dataset(small).train_counts("item") < 10)[frames["din"][0]["item"].to_numpy()]
    delta = roc_auc_score(label[cold], mean[real][cold]) - roc_auc_score(label[cold], mean[twin][cold])
    assert content["slices"]["cold_items"]["auc"]["delta"] == pytest.approx(delta)
    p = [content["rows"]["auc_by_user"]["p"], content["rows"]["gauc"]["p"]]
    assert content["holm"]["auc"] == pytest.approx(min(1, 2 * p[0] if p[0] <= p[1] else max(2 * p[1], p[0])))
    assert groups["din"]["gain"] is None and groups["din"]["content_gain"] is None

    flat = pl.read_parquet(out / "table.parquet").filter(pl.col("name") == real).row(0, named=True)
    assert flat["content_gain_auc_overall_low"] == content["rows"]["auc_by_user"]["low"]
    assert flat["content_gain_auc_overall_seeds"] == single["delta"] and flat["gauc_cold_items"] is not None
    assert flat["parameters_vectors"] == (Dataset(small).meta["counts"]["items"] + 1) * 4
    text = (out / "report.md").read_text()
    assert f"{aucs[real].mean():.4f} ± {aucs[real].std(ddof=1):.4f}" in text and f"{delta:+.4f} [" in text


def test_twins_differ_from_their_real_model_by_the_shuffle_alone(done):
    _, out = done
    real, twin = (
        (out / "runs" / name / "s1.yaml").read_text() for name in ("concat-frozen-4", "concat-frozen-4-shuffled")
    )
    changed = [(a, b) for a, b in zip(real.splitlines(), twin.splitlines(), strict=True) if a != b]
    assert [b.strip() for _, b in changed] == ["name: concat-frozen-4-shuffled", "shuffle: 1"]


def test_the_page_is_self_contained_and_serves_light_and_dark(done):
    page = (done[1] / "report.html").read_text()
    assert "prefers-color-scheme:dark" in page and page.count('role="img"') >= 1
    assert not re.findall(r"<script|<img|@import|url\(|href=\"(?!#|data:)", page)
    assert "var(--ink)" in page and "Concatenation (frozen, 4 dims)" in page


def test_a_second_call_trains_nothing_and_gives_the_same_report(done, capfd):
    words, out = done
    before = json.loads((out / "report.json").read_text())
    assert moon.main([*words, "--json", str(out / "again.json")]) == 0
    shown = capfd.readouterr()
    assert "6 of 6 cells are finished already" in shown.err and " done (" not in shown.err
    assert json.loads((out / "again.json").read_text()) == before
    assert moon.main([*words, "--dry-run"]) == 0
    assert "6 cells; about 0:00 left with --jobs 2" in capfd.readouterr().out


def test_a_failed_cell_is_in_the_report_with_its_line_and_the_status_is_1(done, small, store, tmp_path, capfd):
    words, out = done
    copy = tmp_path / "out"
    shutil.copytree(out, copy, symlinks=True)
    spoiled = copy / "runs" / "concat-frozen-4-shuffled" / "s1"
    shutil.rmtree(spoiled)
    spoiled.write_text("in the way")
    words = [str(copy) if word == str(out) else word for word in words]
    assert moon.main(words) == 1
    error = capfd.readouterr().err
    assert "concat-frozen-4-shuffled/s1 failed: moon train:" in error
    report = json.loads((copy / "report.json").read_text())
    twin = report["groups"][2]
    assert twin["seeds"] == [0] and list(twin["failed"]) == ["concat-frozen-4-shuffled/s1"]
    assert "common seed(s)" in report["groups"][1]["content_gain"]["seeds"]["reason"]
    assert "Failed cells" in (copy / "report.md").read_text() and "Failed cells" in (copy / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({}, [], "give their store with --store image=DIR"),
        ({}, ["--store", "nowhere"], "give NAME=DIR"),
        ({"id_only": "concat"}, None, "reads vectors; name one that does not"),
        ({"id_only": "dinn"}, None, "no mechanism 'dinn'"),
        ({"mechanisms": [{"name": "din", "title": "DIN", "set": {"model.towr": [4]}}]}, None, "did you mean 'tower'?"),
        ({"seeds": [0, 1000]}, None, "tuning.seed 1000 is one of the study's own seeds"),
    ],
)
def test_mistakes_are_one_line(changes, words, message, small, store, tmp_path, capsys):
    study = write_study(tmp_path, **changes)
    words = ["--store", f"image={store}"] if words is None else words
    status = moon.main(["study", "ablation", str(study), "--data", str(small), "--out", str(tmp_path / "o"), *words])
    line = capsys.readouterr().err
    assert status == 2 and message in line and line.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_two_shards_share_the_study_and_the_last_one_writes_the_same_report(done, tmp_path, capfd):
    words, out = done
    copy = tmp_path / "out"
    words = [*(str(copy) if word == str(out) else word for word in words[:-1]), "0", "--shard"]
    statuses = [moon.main([*words, shard]) for shard in ("0/2", "1/2", "0/2", "1/2")]
    shown = capfd.readouterr().err
    assert statuses == [2, 2, 0, 0] and shown.count("another shard's and not finished yet; call again") == 2
    trained = [line.split()[2] for line in shown.splitlines() if " done (" in line]
    assert len(trained) == len(set(trained)) == 10  # four trials and six cells, each by one shard
    whole, shared = (json.loads((folder / "report.json").read_text()) for folder in (out, copy))
    for a, b in zip(whole["groups"], shared["groups"], strict=True):
        assert b["figures"] == a["figures"] and b["content_gain"] == a["content_gain"]
    assert shared["tuning"] == whole["tuning"]


def test_a_study_grows_in_its_folder_and_keeps_what_is_finished(done, tmp_path, capfd):
    words, out = done
    copy = tmp_path / "out"
    shutil.copytree(out, copy, symlinks=True)
    words = [str(copy) if word == str(out) else word for word in words]
    assert moon.main([*words, "--set", "seeds=[0, 1, 2]", "--set", "draws=200"]) == 0
    assert "6 of 9 cells are finished already" in capfd.readouterr().err
    report = json.loads((copy / "report.json").read_text())
    assert [group["seeds"] for group in report["groups"]] == [[0, 1, 2]] * 3 and report["draws"] == 200


def test_another_study_in_the_same_folder_is_an_error(done, capsys):
    words, _ = done
    for change in ("tuning.trials=3", "mechanisms.din.set={model.tower: [4]}", "name=other"):
        assert moon.main([*words, "--set", change]) == 2
        assert "another study than this one" in capsys.readouterr().err
