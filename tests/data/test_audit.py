"""Leaks planted in a prepared dataset: the audit names each, with split, row and column."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data import prepare as preparing
from data.audit import Findings, audit
from data.dataset import SPLITS, Dataset
from data.errors import InputError
from data.prepare import prepare
from data.source import Split
from tests.data.toy_log import T0, ToyLog, random_rows


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset split by time, without a leak."""
    out = tmp_path_factory.mktemp("clean") / "dataset"
    prepare(ToyLog(random_rows(), Split(rule="temporal", cuts=(T0 + 2400, T0 + 3300))), out)
    return out


@pytest.fixture
def planted(clean: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(clean, tmp_path / "dataset"))


def rewrite(root: Path, split: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Replace a split's rows by changed ones."""
    dataset = Dataset(root)
    rows = change(dataset.samples(split).collect())
    for file in dataset.sample_files(split):
        file.unlink()
    rows.write_parquet(root / "samples" / split / "part-00000.parquet")
    dataset.meta["counts"][split] = len(rows)
    (root / "dataset.json").write_text(json.dumps(dataset.meta))


def at(row: int, column: str, value: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Change one cell."""
    here = pl.int_range(pl.len()) == row
    return lambda rows: rows.with_columns(pl.when(here).then(value.cast(rows.schema[column])).otherwise(column).alias(column))  # fmt: skip  # noqa: E501


def problems(root: Path) -> str:
    return "\n".join(audit(Dataset(root)).problems)


def test_a_clean_dataset_passes_every_check(clean):
    findings = audit(Dataset(clean))
    assert not findings.problems
    for name in SPLITS:
        for check in ("no future behaviour in a history", "histories are complete", "samples ordered"):
            assert f"{check} ({name})" in findings.passed
        for entity in ("item", "user"):
            assert f"{entity} statistics see earlier train rows only ({name})" in findings.passed
    assert {"train rows come before valid rows", "valid rows come before test rows"} <= findings.passed.keys()
    assert Dataset(clean).meta["audit"] == findings.passed


@pytest.mark.parametrize("split", SPLITS)
def test_a_future_behaviour_in_a_history(planted, split):
    behaviors, rows = Dataset(planted).behaviors(), Dataset(planted).samples(split).collect()
    ahead = behaviors.offsets[rows["user"].to_numpy() + 1] - behaviors.offsets[rows["user"].to_numpy()]
    row = int(np.flatnonzero(ahead > rows["history_end"].to_numpy())[0])
    rewrite(planted, split, at(row, "history_end", pl.col("history_end") + 1))
    assert f"no future behaviour in a history ({split}): samples/{split} row {row}, column 'history_end'" in problems(
        planted
    )


def test_a_history_that_reaches_into_the_next_user(planted):
    rewrite(planted, "test", at(3, "history_end", pl.lit(10_000)))
    assert "no future behaviour in a history (test): samples/test row 3, column 'history_end' = 10000" in problems(
        planted
    )


def test_a_negative_pointer(planted):
    rewrite(planted, "train", at(5, "history_end", pl.lit(-1)))
    assert "samples/train row 5, column 'history_end' = -1" in problems(planted)


def test_the_target_in_its_own_history(planted):
    behaviors, rows = Dataset(planted).behaviors(), Dataset(planted).samples("test").collect()
    place = behaviors.offsets[rows["user"].to_numpy()] + rows["history_end"].to_numpy()
    place = np.minimum(place, len(behaviors.ts) - 1)
    own = (behaviors.ts[place] == rows["ts"].to_numpy()) & (behaviors.item[place] == rows["item"].to_numpy())
    row = int(np.flatnonzero(own)[0])
    rewrite(planted, "test", at(row, "history_end", pl.col("history_end") + 1))
    found = problems(planted)
    assert f"samples/test row {row}" in found and "it is the target itself (target in its own history)" in found


def test_a_behaviour_left_out_of_a_history(planted):
    row = int(np.flatnonzero(Dataset(planted).samples("valid").collect()["history_end"].to_numpy() > 0)[0])
    rewrite(planted, "valid", at(row, "history_end", pl.col("history_end") - 1))
    assert f"histories are complete (valid): samples/valid row {row}" in problems(planted)


@pytest.mark.parametrize("column", ["item_impressions", "item_positives", "user_impressions", "user_positives"])
def test_statistics_over_all_splits(planted, column):
    entity, kind = column.split("_")
    every = pl.concat(Dataset(planted).samples(s) for s in SPLITS).collect()
    total = every.group_by(entity).agg(_n=pl.len() if kind == "impressions" else pl.col("label").sum())
    for split in SPLITS:
        rewrite(planted, split, lambda rows: rows.join(total, on=entity, how="left", maintain_order="left")
                .with_columns(pl.col("_n").cast(pl.Int32).alias(column)).drop("_n"))  # fmt: skip
    for split in SPLITS:
        assert f"{entity} statistics see earlier train rows only ({split}): samples/{split} row" in problems(planted)
    assert f"column '{column}'" in problems(planted)


def test_statistics_that_count_test_rows_before(planted):
    """As of time, but over rows of every split: only later splits are wrong."""
    every = pl.concat(Dataset(planted).samples(s) for s in SPLITS).collect()

    def over_all(rows: pl.DataFrame) -> pl.DataFrame:
        pairs = rows.with_row_index("_i").select("_i", "item", "ts").join(every.select("item", pl.col("ts").alias("at")), on="item")  # fmt: skip  # noqa: E501
        counts = pairs.group_by("_i").agg(_n=(pl.col("at") < pl.col("ts")).sum())
        joined = rows.with_row_index("_i").join(counts, on="_i", how="left", maintain_order="left")
        return joined.with_columns(item_impressions=pl.col("_n").cast(pl.Int32)).drop("_i", "_n")

    for split in SPLITS:
        rewrite(planted, split, over_all)
    found = problems(planted)
    assert "item statistics see earlier train rows only (test)" in found and "only (train)" not in found


def test_a_statistic_that_has_seen_its_own_row(planted):
    rewrite(planted, "train", lambda rows: rows.with_columns(pl.col("item_positives") + pl.col("label").cast(pl.Int32)))
    found = problems(planted)
    assert "item statistics see earlier train rows only (train)" in found and "its own second" in found


def test_splits_that_overlap_in_time(planted):
    last = Dataset(planted).samples("train").select(pl.col("ts").max()).collect().item()
    rewrite(planted, "valid", lambda rows: rows.with_columns(ts=rows["ts"] - (rows["ts"][0] - last)))
    assert f"train rows come before valid rows: samples/valid row 0 (ts {last})" in problems(planted)


def test_a_row_that_stands_in_two_splits(planted):
    row = Dataset(planted).samples("test").head(1).collect()
    rewrite(planted, "train", lambda rows: pl.concat([rows, row]))
    assert "train rows come before valid rows: samples/valid row 0" in problems(planted)


def test_a_user_whose_test_rows_come_before_the_train_rows(tmp_path):
    prepare(ToyLog(random_rows()), tmp_path / "dataset")
    start = Dataset(tmp_path / "dataset").samples("train").select(pl.col("ts").min()).collect().item()
    rewrite(tmp_path / "dataset", "test", at(0, "ts", pl.lit(start - 1)))
    assert f"samples/test row 0 (ts {start - 1}) is earlier than" in problems(tmp_path / "dataset")


def test_rows_out_of_order(planted):
    rewrite(planted, "train", lambda rows: rows[[1, 0, *range(2, len(rows))]])
    assert "samples ordered (train): samples/train row 1 breaks the order of (ts, user, item)" in problems(planted)


def test_behaviours_out_of_order(planted):
    ts = np.load(planted / "behaviors" / "ts.npy", mmap_mode="r+")
    ts[0], ts[1] = ts[1] + 1, ts[0]
    ts.flush()
    assert "behaviours ordered by time: behaviors/ts.npy row 1 (user 0) is earlier than" in problems(planted)


@pytest.mark.parametrize(("column", "value"), [("item", 10_000), ("user", -1), ("label", 2)])
def test_values_that_point_nowhere(planted, column, value):
    rewrite(planted, "test", at(4, column, pl.lit(value)))
    assert f"samples/test row 4, column '{column}' is {value}" in problems(planted)


def test_an_item_shown_before_it_is_first_seen(planted):
    items = pl.read_parquet(planted / "items.parquet")
    first = Dataset(planted).samples("train").head(1).collect()
    item, ts = first["item"][0], first["ts"][0]
    here = pl.int_range(pl.len()) == item
    later = pl.when(here).then(pl.lit(ts + 1)).otherwise("first_seen_ts").alias("first_seen_ts")
    items.with_columns(later).write_parquet(planted / "items.parquet")
    assert f"samples/train row 0 shows item {item} at {ts}; items.parquet says first_seen_ts = {ts + 1}" in problems(
        planted
    )


def test_a_dataset_that_fails_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "audit", lambda dataset: Findings(problems=["samples ordered (test): row 3"]))
    with pytest.raises(InputError, match=r"^the prepared dataset failed its audit: samples ordered \(test\): row 3$"):
        prepare(ToyLog(random_rows()), tmp_path / "out")
    assert not list(tmp_path.iterdir())
