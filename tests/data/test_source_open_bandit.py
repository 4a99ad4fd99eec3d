"""open_bandit: impressions with propensities against the raw CSV, both policies, one-line errors."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

import moon
from data.dataset import Dataset

FEATURES = [f"user_feature_{i}" for i in range(4)]


@pytest.fixture
def log(shared: Path, tmp_path: Path) -> Path:
    """A copy of one policy's files that a test may change."""
    shutil.copytree(shared / "datasets" / "open_bandit_men" / "bts", tmp_path / "raw" / "bts")
    return tmp_path / "raw"


def prepare(root: Path, out: Path, *more: str) -> int:
    return moon.main(["prepare", "open_bandit", "--root", str(root), "--out", str(out), *more])


@pytest.mark.parametrize(("policy", "clicks"), [("random", 46), ("bts", 69)])
def test_samples_are_the_raw_rows(shared, tmp_path, policy, clicks):
    root = shared / "datasets" / "open_bandit_men"
    assert prepare(root, tmp_path / "out", "--policy", policy) == 0
    dataset = Dataset(tmp_path / "out")
    raw = pl.read_csv(root / policy / "men.csv", infer_schema_length=None).to_dicts()
    users = dataset.users().collect()["user_id"].to_list()
    items = dataset.items().collect()
    samples = [row for s in ("train", "valid", "test") for row in dataset.samples(s).collect().to_dicts()]
    assert sorted(row["request_id"] for row in samples) == list(range(10_000))
    assert sum(row["label"] for row in samples) == clicks
    for sample in samples[::7]:
        row = raw[sample["request_id"]]
        at = datetime.fromisoformat(row["timestamp"]).replace(microsecond=0, tzinfo=UTC)
        assert sample["ts"] == at.timestamp() and sample["history_end"] == 0
        assert items["item_id"][sample["item"]] == row["item_id"]
        assert (sample["label"], sample["position"]) == (row["click"], row["position"])
        assert sample["propensity"] == pytest.approx(row["propensity_score"], rel=1e-6)
        assert users[sample["user"]] == "/".join(row[name] for name in FEATURES)
        assert [sample[name] for name in FEATURES] == [row[name] for name in FEATURES]
        assert all(sample[f"affinity_{i}"] == pytest.approx(row[f"user-item_affinity_{i}"]) for i in range(34))
    assert len(items) == 34 and dataset.meta["source"] == f"open_bandit/{policy}" and dataset.actions == []
    times = [dataset.samples(s).select("ts").collect()["ts"] for s in ("train", "valid", "test")]
    assert times[0][-1] < times[1][0] and times[1][-1] < times[2][0]


def test_preparing_twice_gives_the_same_bytes(log, tmp_path):
    found = set()
    for name in ("a", "b", "c"):
        assert prepare(log, tmp_path / name) == 0
        found.add(Dataset(tmp_path / name).fingerprint)
    assert len(found) == 1


def test_mistakes_are_one_line(log, tmp_path, capsys):
    file, context = log / "bts" / "men.csv", log / "bts" / "item_context.csv"
    text, items = file.read_text(), context.read_text()
    lines = text.splitlines(keepends=True)
    no_time = lines[5].replace("2019-11-2", "yesterday ")
    wrong = [
        (file, text.replace("propensity_score", "propensity"), "column 'propensity_score' is missing"),
        (file, "".join([*lines[:5], no_time, *lines[6:90]]), "men.csv row 4, column 'ts': None: ts is null"),
        (file, lines[0], "the log holds no rows"),
        (context, items.replace("item_feature_2", "feature_2"), "'item_feature_2' is missing; did you mean"),
        (context, items.splitlines()[0] + "\n", "item_context.csv: no rows; there must be one row an item"),
        (context, "", "item_context.csv: not a readable CSV"),
    ]
    for path, changed, message in wrong:
        whole = path.read_text()
        path.write_text(changed)
        assert prepare(log, tmp_path / "out") == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moon")]
        assert len(error) == 1 and message in error[0]
        path.write_text(whole)
    assert prepare(log, tmp_path / "out", "--policy", "greedy") == 2
    assert "--policy 'greedy': the log has the policies random, bts" in capsys.readouterr().err
    assert prepare(log, tmp_path / "out", "--policy", "random") == 2
    assert "random/item_context.csv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
