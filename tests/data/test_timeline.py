"""Running counts and the writers, piece by piece."""

from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from data import timeline
from data.running import EntityOrder, RunningCounts
from data.source import Split
from data.timeline import SampleWriter, split_rule


@pytest.mark.parametrize("bucket", [1, 7, 400])
def test_counts_equal_loops_however_time_is_cut(bucket):
    rng = np.random.default_rng(0)
    ts, entity, event = np.sort(rng.integers(0, 90, 400)), rng.integers(0, 5, 400), rng.random(400) < 0.6
    edges = np.unique(np.concatenate((np.searchsorted(ts, ts[::bucket]), [400])))  # a second is never cut
    counts, ranks, earlier = RunningCounts(5), [], []
    for first, last in pairwise(edges):
        order = EntityOrder(entity[first:last], ts[first:last])
        ranks += (counts.totals[entity[first:last]] + order.rank(event[first:last])).tolist()
        earlier += counts.advance(order, event[first:last]).tolist()
    same = [entity[:i] == entity[i] for i in range(400)]
    assert ranks == [int((event[:i] & same[i]).sum()) for i in range(400)]
    assert earlier == [int((event[:i] & same[i] & (ts[:i] < ts[i])).sum()) for i in range(400)]
    assert counts.totals.tolist() == [int(event[entity == e].sum()) for e in range(5)]


def test_within_user_shares_are_exact_at_the_edge():
    rule = split_rule(Split(rule="within_user", train=0.7, valid=0.2), None)  # 0.7 + 0.2 is 0.8999... in floats
    assert rule(pl.DataFrame(), np.arange(10) / 10).tolist() == [0] * 7 + [1] * 2 + [2]


def test_temporal_edges_belong_to_the_later_split():
    rule = split_rule(Split(rule="temporal"), (10, 20))
    assert rule(pl.DataFrame({"ts": [9, 10, 19, 20]}), np.zeros(4)).tolist() == [0, 1, 1, 2]


def test_parts_and_row_groups_are_bounded_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline, "GROUP_ROWS", 10)
    monkeypatch.setattr(timeline, "PART_ROWS", 40)
    writer, value = SampleWriter(tmp_path / "train"), 0
    for size in (3, 4, 5, 0, 31, 1, 12, 50, 7):
        writer.add(pl.DataFrame({"ts": np.arange(value, value + size)}))
        value += size
    writer.close()
    files = sorted((tmp_path / "train").glob("part-*.parquet"))
    assert writer.rows == value == 113 and len(files) > 1
    assert pl.read_parquet(files)["ts"].to_list() == list(range(value))
    groups = [pq.ParquetFile(f).metadata.row_group(g).num_rows
              for f in files for g in range(pq.ParquetFile(f).metadata.num_row_groups)]  # fmt: skip
    assert groups == [10] * 11 + [3]


def test_an_empty_split_leaves_no_file(tmp_path):
    writer = SampleWriter(tmp_path / "valid")
    writer.close()
    assert not list((tmp_path / "valid").iterdir())
