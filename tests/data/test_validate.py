"""Row checks: each bad row has one reason, the first of the list; counts, caps and the share."""

import json
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.source import Chunk
from data.validate import Rejections, checks

GOOD = {"user_id": 1, "item_id": 2, "ts": 1_000_000_000, "label": 1.0, "sample": True}
SCHEMA = {"user_id": pl.Int64, "item_id": pl.Int64, "ts": pl.Int64, "label": pl.Float64, "sample": pl.Boolean}
CASES = [
    ({"user_id": None}, "user_id is null"),
    ({"item_id": None}, "item_id is null"),
    ({"ts": None}, "ts is null"),
    ({"ts": 1_700_000_000_000}, "ts looks like milliseconds, give seconds"),
    ({"ts": -1}, "ts is outside 1970..2100, give Unix seconds"),
    ({"ts": 5_000_000_000}, "ts is outside 1970..2100, give Unix seconds"),
    ({"label": None}, "label is null or NaN"),
    ({"label": float("nan")}, "label is null or NaN"),
    ({"label": 0.5}, "label is outside {0, 1}"),
    ({"label": float("inf")}, "label is outside {0, 1}"),
    ({"user_id": None, "label": 7.0}, "user_id is null"),
    ({"label": None, "sample": False}, None),
    ({"label": 7.0, "sample": False}, None),
    ({"ts": 0}, None),
    ({"label": 0.0}, None),
]


def chunk(*changes: dict, first_row: int = 0) -> Chunk:
    return Chunk(pl.DataFrame([GOOD | change for change in changes], schema=SCHEMA), Path("log"), first_row)


@pytest.mark.parametrize(("change", "reason"), CASES, ids=[f"{c} {r}" for c, r in CASES])
def test_one_row(change, reason):
    rejections = Rejections(1.0)
    kept = rejections.filter(chunk({}, change, first_row=10))
    assert rejections.counts == ({} if reason is None else {reason: 1})
    assert kept["_row"].to_list() == ([10] if reason else [10, 11])


def test_every_check_has_a_case():
    assert {reason for reason, _, _ in checks()} == {reason for _, reason in CASES if reason}


def test_the_share_is_of_all_rows_and_the_commonest_reason_is_told(tmp_path):
    rejections = Rejections(0.3)
    rejections.filter(chunk({"ts": None}, *[{}] * 8, {"label": 3.0}, {"label": 4.0}, first_row=100))
    rejections.check()
    rejections.filter(chunk({"label": 5.0}, {"ts": -4}, first_row=200))
    with pytest.raises(InputError) as error:
        rejections.check()
    assert str(error.value) == (
        "log row 109, column 'label': 3.0: label is outside {0, 1}; 5 of 13 rows are bad, "
        "more than the allowed share 0.3 (--max-rejected)"
    )


def test_what_is_kept_aside_is_capped_but_all_is_counted(tmp_path):
    rejections = Rejections(1.0, kept_rows=3)
    for first in (0, 5):
        rejections.filter(chunk(*[{"ts": -1}] * 5, first_row=first))
    rejections.write(tmp_path / "rejected.parquet")
    found = pl.read_parquet(tmp_path / "rejected.parquet")
    assert sum(rejections.counts.values()) == 10 and found["row"].to_list() == [0, 1, 2]
    assert json.loads(found["raw"][0]) == GOOD | {"ts": -1}


def test_nothing_rejected_is_an_empty_table(tmp_path):
    Rejections(0.0).write(tmp_path / "rejected.parquet")
    assert pl.read_parquet(tmp_path / "rejected.parquet").columns == ["file", "row", "reason", "raw"]
