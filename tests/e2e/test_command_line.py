"""The whole job through `moon`, and the exit status and single line of everything that can go wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import moon
from data.dataset import Dataset
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from ranker.versions import check_versions
from tests.conftest import write_ratings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, raw_log: Path) -> Path:
    """Folder with data/ and run/, made by the commands."""
    import yaml

    from tests.ranker.conftest import TINY

    root = tmp_path_factory.mktemp("e2e")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    raw = str(raw_log)
    assert moon.main(["prepare", "movielens_posters", "--root", raw, "--out", str(root / "data")]) == 0
    train = ["train", str(root / "tiny.yaml"), "--data", str(root / "data"), "--out", str(root / "run")]
    assert moon.main([*train, "--json", str(root / "figures.json")]) == 0
    return root


def fails(capsys: pytest.CaptureFixture[str], status: int, *words: object) -> str:
    """The single stderr line of a command that ends with `status`."""
    capsys.readouterr()
    assert moon.main([str(word) for word in words]) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_eval_repeats_the_training_s_figures_and_judges_other_splits(trained, capsys):
    figures = json.loads((trained / "figures.json").read_text())
    assert moon.main(["eval", str(trained / "run"), "--json", str(trained / "again.json")]) == 0
    again = json.loads((trained / "again.json").read_text())
    for name in ("auc", "gauc", "logloss", "ne", "pcoc", "ece", "rows", "users", "gauc_rows_share", "slices"):
        assert again[name] == figures[name]
    assert {"new_items", "cold_items"} <= figures["slices"].keys() and figures["rows_per_second"] > 0
    assert moon.main(["eval", str(trained / "run"), "--split", "train"]) == 0
    rows = pl.read_parquet(trained / "run" / "predictions-train.parquet")
    assert len(rows) == Dataset(trained / "data").meta["counts"]["train"] and rows["row"].is_sorted()
    assert "train: auc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named", "others"),
    [
        ([], ["train", "study scaling", "encoder embed"], []),
        (["--help"], ["train", "study scaling", "encoder embed"], []),
        (["study"], ["study scaling", "study tune"], ["train", "encoder embed"]),
        (["-h", "encoder"], ["encoder embed", "encoder recall"], ["train", "study tune"]),
    ],
)
def test_the_commands_are_listed_all_or_of_one_family(words, named, others, capsys):
    assert moon.main(words) == 0
    listed = [line[2:21].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert set(named) <= set(listed) and not set(others) & set(listed)


def test_inspect_names_what_it_sees(trained, tmp_path, capsys):
    assert moon.main(["inspect", str(trained / "data"), "--json", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["splits"]["test"]["rows"] > 0
    assert moon.main(["inspect", str(trained / "run")]) == 0
    out = capsys.readouterr().out
    assert "dataset movielens_posters" in out and "run tiny, seed 0" in out and "checks passed" in out
    assert "neither a prepared dataset" in fails(capsys, 2, "inspect", tmp_path)


def test_items_and_users_unknown_to_the_model_score_by_oov_and_are_counted(trained, tmp_path, capsys):
    raw = write_ratings(tmp_path / "raw", users=70, items=100, seed=5)
    prepare(MovielensPosters(raw), tmp_path / "data")
    own = (trained / "run" / "metrics.json").read_bytes(), (trained / "run" / "predictions.parquet").read_bytes()
    command = ["eval", str(trained / "run"), "--data", str(tmp_path / "data"), "--json", str(tmp_path / "m.json")]
    assert moon.main(command) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    dataset = Dataset(tmp_path / "data")
    name = f"test-{dataset.fingerprint[:8]}"
    assert json.loads((trained / "run" / f"metrics-{name}.json").read_text()) == found
    scores = pl.read_parquet(trained / "run" / f"predictions-{name}.parquet")
    assert len(scores) == found["rows"] and np.isfinite(scores["score"].to_numpy()).all()
    assert own == (
        (trained / "run" / "metrics.json").read_bytes(),
        (trained / "run" / "predictions.parquet").read_bytes(),
    )
    ids = dataset.items().collect()["item_id"].to_numpy()[dataset.samples("test").collect()["item"].to_numpy()]
    known = Dataset(trained / "data").train_counts("item") > 0
    expected = int(np.sum(~np.append(known, np.zeros(20, bool))[ids]))
    assert found["unknown_items"] == expected > 0
    assert f"{expected} rows show an item unknown to the model" in capsys.readouterr().out


def test_a_checkpoint_of_another_schema_or_a_damaged_one_is_refused(trained, tmp_path, capsys):
    run = shutil.copytree(trained / "run", tmp_path / "run", symlinks=True)
    state = run / "checkpoints" / "best" / "state.json"
    facts = json.loads(state.read_text())
    state.write_text(json.dumps(facts | {"schema": "0" * 64}))
    assert "the checkpoint was made with another feature schema" in fails(capsys, 2, "eval", run)
    state.write_text(json.dumps(facts))
    shards = list((run / "checkpoints" / "best").glob("*.distcp"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    assert "the checkpoint is damaged" in fails(capsys, 2, "eval", run)
    shutil.rmtree(run / "checkpoints")
    assert "no such checkpoint" in fails(capsys, 2, "eval", run)


def test_usage_errors(trained, tmp_path, capsys):
    assert "no such command; did you mean 'train'?" in fails(capsys, 2, "trian")
    assert "no prepared dataset" in fails(capsys, 2, "train", trained / "tiny.yaml", "--data", tmp_path, "--out", "x")
    assert "no such config file" in fails(capsys, 2, "train", "no.yaml", "--data", trained / "data", "--out", "x")
    assert "no run (config.yaml is missing)" in fails(capsys, 2, "eval", tmp_path, "--data", trained / "data")
    assert "source 'movielens' is unknown" in fails(capsys, 2, "prepare", "movielens", "--root", ".", "--out", "x")
    assert "no such folder" in fails(capsys, 2, "prepare", "open_bandit", "--root", tmp_path / "no", "--out", "x")


def test_the_traceback_comes_only_with_debug(tmp_path, capsys):
    line = fails(capsys, 2, "inspect", tmp_path)
    assert "Traceback" not in line
    assert moon.main(["inspect", str(tmp_path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_damaged_dataset_is_named(trained, tmp_path, capsys):
    data = shutil.copytree(trained / "data", tmp_path / "data")
    part = next((data / "samples" / "train").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:200])
    line = fails(capsys, 2, "train", trained / "tiny.yaml", "--data", data, "--out", tmp_path / "run")
    assert part.name in line and "truncated" in line
    meta = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(meta | {"schema_version": 99}))
    assert "schema version 99" in fails(capsys, 2, "inspect", data)


def test_a_full_disk_is_one_line_and_leaves_the_old_dataset(trained, raw_log, tmp_path, capsys, monkeypatch):
    out = shutil.copytree(trained / "data", tmp_path / "data")
    before = (out / "dataset.json").read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28), str(tmp_path / "x"))

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    line = fails(capsys, 1, "prepare", "movielens_posters", "--root", raw_log, "--out", out)
    assert "disk full" in line or "no space left" in line
    assert (out / "dataset.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("command", sorted(set(moon.COMMANDS) - set(moon.WITHOUT_TORCH)))
def test_versions_that_do_not_match_are_told_before_anything_is_imported(command, capsys, monkeypatch):
    wrong = {"torch": "2.13.0", "torchrec": "1.6.0", "fbgemm-gpu": None}
    monkeypatch.setattr("ranker.versions.installed", lambda: wrong)
    monkeypatch.setattr("moon.import_module", lambda name: pytest.fail(f"{name} was imported"))
    line = fails(capsys, 2, *command.split())
    assert line.startswith(f"moon {command}: these versions do not work together: torch 2.13.0, torchrec 1.6.0, ")


def test_preparing_and_inspecting_need_no_torch(trained, raw_log, tmp_path):
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchrec', 'fbgemm_gpu'])); "
    for words in (
        ["prepare", "movielens_posters", "--root", str(raw_log), "--out", str(tmp_path / "data")],
        ["inspect", str(tmp_path / "data")],
        ["inspect", str(trained / "run")],
    ):
        subprocess.run([sys.executable, "-c", f"{blocked}import moon; sys.exit(moon.main({words}))"], check=True)


def test_versions_that_do_not_match_are_one_line():
    from data.errors import InputError

    check_versions({"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"})
    check_versions({"torch": "2.11.0+cu130", "torchrec": "1.6.0", "fbgemm-gpu": "1.6.0"})
    with pytest.raises(
        InputError, match=r"torch 2\.13\.0, torchrec 1\.6\.0, .* with torch 2\.13 install torchrec 1\.8"
    ):
        check_versions({"torch": "2.13.0", "torchrec": "1.6.0", "fbgemm-gpu": "1.6.0"})
    with pytest.raises(InputError, match="fbgemm-gpu absent"):
        check_versions({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": None})


@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_without_work_sleep_unless_asked_to_spin(given, policy):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"OMP_DISPLAY_ENV": "true"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    words = [sys.executable, "-m", "moon", "eval", "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr  # as told by the library that torch brings
