"""Mistakes in the raw log as the command line tells them: exit status 2 and one line with file, row, column."""

import re

import numpy as np
import polars as pl
import pytest

import moon
from data.dataset import Dataset
from tests.conftest import write_ratings


@pytest.fixture
def raw(tmp_path):
    """The raw files of a small log, to spoil."""
    return write_ratings(tmp_path / "raw", rows=600)


def told(raw, capsys, *options: str) -> str:
    """What `moon prepare` says on its way out with status 2; nothing may be left behind."""
    out = raw.parent / "out"
    status = moon.main(["prepare", "movielens_posters", "--root", str(raw), "--out", str(out), *options])
    lines = [x for x in capsys.readouterr().err.splitlines() if not re.match("reading: |preparing: ", x)]
    assert status == 2 and len(lines) == 1, (status, lines)
    assert sorted(p.name for p in raw.parent.iterdir()) == ["raw"]
    return lines[0].removeprefix("moon prepare: ").replace(f"{raw}/", "")


def change(raw, *columns: pl.Expr, file: str = "ratings") -> None:
    path = raw / f"{file}.parquet"
    pl.read_parquet(path).with_columns(*columns).write_parquet(path)


def in_rows(rows: int, column: str, value: object) -> pl.Expr:
    """`value` in the first `rows` rows of a column."""
    return pl.when(pl.int_range(pl.len()) < rows).then(pl.lit(value)).otherwise(column).alias(column)


def test_a_missing_column_and_the_nearest_name(raw, capsys):
    path = raw / "ratings.parquet"
    pl.read_parquet(path).rename({"rating": "ratings"}).write_parquet(path)
    assert told(raw, capsys) == "ratings.parquet: column 'rating' is missing; did you mean 'ratings'?"


def test_a_missing_column_of_the_catalogue(raw, capsys):
    path = raw / "items.parquet"
    pl.read_parquet(path).drop("genres").write_parquet(path)
    message = "items.parquet: column 'genres' is missing; columns: item_id, title, year, has_poster"
    assert told(raw, capsys) == message


@pytest.mark.parametrize(
    ("column", "wants"), [("rating", "a number"), ("ts", "whole numbers"), ("user_id", "whole numbers or text")]
)
def test_a_wrong_dtype(raw, capsys, column, wants):
    dtype = pl.String if column != "user_id" else pl.Float64
    change(raw, pl.col(column).cast(dtype))
    assert told(raw, capsys) == f"ratings.parquet: column '{column}' is {dtype}; it must be {wants}"


BAD = {
    "user_id is null": (in_rows(30, "user_id", None), "row 0, column 'user_id': None"),
    "item_id is null": (in_rows(30, "item_id", None), "row 0, column 'item_id': None"),
    "ts is null": (in_rows(30, "ts", None), "row 0, column 'ts': None"),
    "ts looks like milliseconds, give seconds": (pl.col("ts") * 1000, "row 0, column 'ts': 1000000"),
    "ts is outside 1970..2100, give Unix seconds": (in_rows(30, "ts", -5), "row 0, column 'ts': -5"),
    "label is null or NaN": (in_rows(30, "rating", float("nan")).cast(pl.Float32), "row 0, column 'label': None"),
}


@pytest.mark.parametrize("reason", BAD)
def test_too_many_bad_rows(raw, capsys, reason):
    spoilt, where = BAD[reason]
    change(raw, spoilt)
    total = len(pl.read_parquet(raw / "ratings.parquet"))
    bad = total if "milli" in reason else 30
    share = f"{bad:,} of {total:,} rows are bad, more than the allowed share 0.01 (--max-rejected)"
    message = told(raw, capsys)
    assert message.startswith(f"ratings.parquet {where.split(':')[0]}: ") and where in message
    assert message.endswith(f": {reason}; {share}")


def test_few_bad_rows_are_kept_aside_with_their_number(raw, capsys):
    path = raw / "ratings.parquet"
    frame = pl.read_parquet(path)
    rows = frame.with_columns(
        ts=pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("ts"),
        rating=pl.when(pl.int_range(pl.len()) == 40).then(float("nan")).otherwise("rating").cast(pl.Float32),
    )
    pl.concat([rows, rows[100:102]]).write_parquet(path)
    out = raw.parent / "out"
    assert moon.main(["prepare", "movielens_posters", "--root", str(raw), "--out", str(out)]) == 0
    assert "  rejected 2: duplicate of an earlier row (same user, item, ts)\n" in capsys.readouterr().out
    rejected = pl.read_parquet(out / "rejected.parquet").sort("row")
    assert rejected["row"].to_list() == [7, 40, len(frame), len(frame) + 1]
    assert rejected["file"].unique().to_list() == [str(path)]
    assert rejected["reason"].to_list() == ["ts is null", "label is null or NaN", *["duplicate of an earlier row (same user, item, ts)"] * 2]  # fmt: skip  # noqa: E501
    raw_row = pl.Series(rejected["raw"]).str.json_decode(pl.Struct({"user_id": pl.Int64, "item_id": pl.Int64}))
    assert raw_row.struct.field("user_id").to_list()[2:] == rows["user_id"][100:102].to_list()
    meta = Dataset(out).meta
    assert meta["counts"]["rejected"] == 4 == sum(meta["rejected"].values())
    assert sum(meta["counts"][s] for s in ("train", "valid", "test")) == len(frame) - 2


def test_rows_that_stand_twice(raw, capsys):
    path = raw / "ratings.parquet"
    frame = pl.read_parquet(path)
    pl.concat([frame, frame.head(50)]).write_parquet(path)
    n, ts = len(frame), frame["ts"][0]
    assert told(raw, capsys) == (
        f"ratings.parquet row {n}, column 'ts': {ts}: duplicate of an earlier row (same user, item, ts); "
        f"50 of {n + 50} rows are bad, more than the allowed share 0.01 (--max-rejected)"
    )


def test_an_item_that_stands_twice_in_the_catalogue(raw, capsys):
    path = raw / "items.parquet"
    frame = pl.read_parquet(path)
    pl.concat([frame, frame[3:4]]).write_parquet(path)
    message = f"row {len(frame)}, column 'item_id': 3 stands there twice; ids must be unique"
    assert told(raw, capsys).endswith(message)


def test_a_truncated_file(raw, capsys):
    data = (raw / "ratings.parquet").read_bytes()
    (raw / "ratings.parquet").write_bytes(data[: len(data) // 2])
    assert told(raw, capsys).startswith("ratings.parquet: not a readable parquet file (truncated?): ")


def test_a_damaged_page(raw, capsys):
    data = bytearray((raw / "ratings.parquet").read_bytes())
    data[4:400] = b"\xff" * 396
    (raw / "ratings.parquet").write_bytes(bytes(data))
    assert told(raw, capsys).startswith("ratings.parquet: damaged near row 0: ")


def test_an_empty_log(raw, capsys):
    path = raw / "ratings.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    assert told(raw, capsys) == "source movielens_posters: the log holds no rows"


def test_a_log_too_short_for_three_splits(raw, capsys):
    path = raw / "ratings.parquet"
    pl.read_parquet(path).head(3).write_parquet(path)
    message = told(raw, capsys)
    assert message.startswith("split 'test' would be empty under rule 'within_user' (rows: ") or message.startswith(
        "split 'valid' would be empty under rule 'within_user' (rows: "
    )


def test_ids_of_another_kind_in_the_catalogue(raw, capsys):
    change(raw, pl.col("item_id").cast(pl.String), file="items")
    message = "column 'item_id' is String in the catalogue and Int32 in the log; make them the same"
    assert told(raw, capsys) == message


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_the_share_of_bad_rows_is_a_share(raw, capsys, share):
    assert told(raw, capsys, f"--max-rejected={share}") == f"--max-rejected {float(share):g}: give a share from 0 to 1"


def test_an_option_of_another_source(raw, capsys):
    assert told(raw, capsys, "--policy", "bts") == "--policy: the source movielens_posters takes no such option"


def test_a_dataset_of_another_version_or_none(tmp_path, small, capsys):
    for name, text, message in (
        ("old", '{"schema_version": 0}', "schema version 0, this program reads 1; prepare the dataset again"),
        ("cut", '{"schema_', "not valid JSON: "),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(text)
        assert moon.main(["inspect", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert moon.main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_labels_other_than_zero_and_one(tmp_path):
    from data.errors import InputError
    from data.prepare import prepare
    from tests.data.toy_log import ToyLog, random_rows

    rows = random_rows(400)
    spoilt = rows.with_columns(label=pl.when(pl.col("sample")).then(pl.lit(0.5)).otherwise("label"))
    first = int(np.flatnonzero(rows["sample"].to_numpy())[0])
    with pytest.raises(InputError) as error:
        prepare(ToyLog(spoilt), tmp_path / "out")
    assert str(error.value).startswith(f"toy.log row {first}, column 'label': 0.5: label is outside {{0, 1}}; ")
