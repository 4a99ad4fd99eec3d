"""`moon compare`: grouping by seed, figures equal to the tests they come from, and rows that do not match."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

import moon
from data.dataset import Dataset
from ranker.significance import delong, paired_t


def fake_run(root: Path, dataset: Path, name: str, seed: int, skill: float) -> Path:
    """A run directory with made-up test scores."""
    data = Dataset(dataset)
    rows = data.samples("test").select("ts", "user", "item", "label").collect().with_row_index("row")
    rng = np.random.default_rng([seed, int(skill * 100)])
    logit = skill * rows["label"].to_numpy() + rng.normal(size=len(rows))
    root.mkdir(parents=True)
    rows.with_columns(pl.col("row").cast(pl.Int64), score=1 / (1 + np.exp(-logit))).write_parquet(
        root / "predictions.parquet"
    )
    meta = {"name": name, "seed": seed, "dataset": {"path": str(dataset), "fingerprint": data.fingerprint}}
    (root / "meta.json").write_text(json.dumps(meta))
    return root


@pytest.fixture
def runs(tmp_path: Path, small: Path) -> list[str]:
    """Two recipes, three seeds each."""
    made = [
        fake_run(tmp_path / f"{n}{s}", small, n, s, k) for n, k in (("plain", 0.6), ("rich", 1.6)) for s in range(3)
    ]
    return [str(run) for run in made]


def scores(runs: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    frames = [pl.read_parquet(Path(run) / "predictions.parquet") for run in runs]
    return frames[0]["label"].to_numpy(), [frame["score"].to_numpy() for frame in frames]


def test_recipes_are_grouped_by_name_and_tested_over_seeds(runs, small, tmp_path, capsys):
    mixed = [runs[i] for i in (1, 0, 2, 5, 4, 3)]  # seeds are paired whatever order they are given in
    assert moon.main(["compare", *mixed, "--draws", "100", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    label, each = scores(runs)
    aucs = np.array([roc_auc_score(label, score) for score in each])
    assert found["recipes"]["rich"]["auc"]["values"] == pytest.approx(list(aucs[3:]), abs=1e-12)
    assert found["differences"]["rich"]["seeds"]["auc"] == pytest.approx(paired_t(aucs[:3], aucs[3:]).as_dict())
    expected = delong(label, np.mean(each[:3], axis=0), np.mean(each[3:], axis=0)).as_dict()
    assert found["differences"]["rich"]["rows"]["auc"] == pytest.approx(expected)
    slices = found["differences"]["rich"]["slices"]
    assert slices["cold_items"]["rows"] < found["rows"] and "history_10_49" in slices
    cold = (Dataset(small).train_counts("item") < 10)[
        pl.read_parquet(Path(runs[0]) / "predictions.parquet")["item"].to_numpy()
    ]
    parts = np.array([roc_auc_score(label[cold], score[cold]) for score in each])
    assert slices["cold_items"]["seeds"]["auc"] == pytest.approx(paired_t(parts[:3], parts[3:]).as_dict())
    out = capsys.readouterr().out
    assert "rich minus plain (mean scores over seeds)" in out and "DeLong" in out and "too small to mean" in out


def test_one_seed_each_says_why_there_is_no_t_test(runs, capsys):
    assert moon.main(["compare", runs[0], runs[3], "--draws", "100"]) == 0
    assert "over seeds: 1 common seed(s); a t-test needs two" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.head(len(f) - 1), "rows, "),
        (lambda f: f.with_columns(item=pl.col("item").reverse()), "item of row 0 is"),
        (lambda f: f.with_columns(label=1 - pl.col("label")), "label of row 0 is"),
        (lambda f: f.with_columns(score=pl.lit(float("nan"))), "score of row 0 is nan"),
    ],
)
def test_rows_that_do_not_match_are_an_error(runs, change, message, capsys):
    path = Path(runs[3]) / "predictions.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    assert moon.main(["compare", runs[0], runs[3], "--draws", "100"]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1


def test_another_dataset_and_a_repeated_seed_and_absent_scores_are_errors(runs, capsys):
    meta = Path(runs[3]) / "meta.json"
    meta.write_text(meta.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert moon.main(["compare", runs[0], runs[3]]) == 2
    assert "compare on one dataset" in capsys.readouterr().err
    assert moon.main(["compare", runs[0], runs[0]]) == 2
    assert "a second run of recipe 'plain' with seed 0" in capsys.readouterr().err
    assert moon.main(["compare", runs[0], runs[1], "--split", "valid"]) == 2
    assert "write it with moon eval" in capsys.readouterr().err
