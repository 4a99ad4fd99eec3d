"""Time-ordering by runs and buckets: nothing lost, order kept, buckets near their size, origins of rows."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data import spill
from data.spill import buckets, time_of_share
from data.validate import Rejections
from tests.data.toy_log import ToyLog, random_rows


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    monkeypatch.setattr(spill, "BUCKET_ROWS", 100)
    monkeypatch.setattr(spill, "SPAN_SECONDS", 20)


def test_buckets_hold_every_row_once_in_order_of_time(tmp_path):
    rows = random_rows()
    spilled = spill.spill(ToyLog(rows, chunk=170), tmp_path, Rejections(0.0))
    found = list(buckets(spilled))
    assert len(spilled.runs) == -(-len(rows) // 170) and len(found) > 10
    for before, after in pairwise(found):
        assert before["ts"].max() < after["ts"].min()  # pyright: ignore[reportOperatorIssue]
    whole = pl.concat(found).sort("_place")
    assert whole["_place"].to_list() == list(range(len(rows)))
    assert whole.drop("_place").equals(rows)
    per_span = np.bincount((rows["ts"].to_numpy() - rows["ts"].min()) // 20)  # pyright: ignore[reportOperatorIssue]
    assert max(map(len, found)) <= 100 + per_span.max() * 2
    assert spilled.users.to_list() == sorted(set(rows["user_id"])) and spilled.items.to_list() == sorted(set(rows["item_id"]))  # fmt: skip  # noqa: E501


def test_a_place_leads_back_to_its_chunk_when_rows_were_rejected(tmp_path):
    rows = random_rows(600).with_columns(ts=pl.when(pl.int_range(pl.len()) % 50 == 3).then(None).otherwise("ts"))
    spilled = spill.spill(ToyLog(rows, chunk=100), tmp_path, Rejections(0.5))
    for found in buckets(spilled):
        for place, chunk in zip(found["_place"], spilled.chunk_of(found["_place"].to_numpy()), strict=True):
            first, file, row = spilled.chunks[chunk]
            origin = rows.row(row + place - first, named=True)
            same = found.filter(pl.col("_place") == place).drop("_place").row(0, named=True)
            assert file == Path("toy.log") and origin == same


def test_time_of_share():
    spans = pl.DataFrame({"span": [5, 6, 9], "rows": [4, 4, 2], "samples": [4, 4, 2]})
    assert [time_of_share(spans, share) for share in (0.1, 0.4, 0.41, 0.8, 0.81, 1.0)] == [
        120, 120, 140, 140, 200, 200
    ]  # fmt: skip
