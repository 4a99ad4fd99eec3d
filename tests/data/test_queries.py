"""Queries and searches against a plain loop over the raw log."""

import polars as pl
import pytest

from data.dataset import SPLITS, Dataset
from data.errors import InputError
from data.queries import open_searches, query_ids
from tests.data.test_pairs import prepared, write_shop

SPLIT = {"rule": "temporal", "train": 0.6, "valid": 0.2}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    write_shop(root / "raw", SPLIT)
    return prepared(root / "raw", root / "data")[0]


def rows(dataset):
    frames = [dataset.samples(split).collect() for split in SPLITS]
    return pl.concat([frame.select("user", "ts", "query", "query_image") for frame in frames]).to_dicts()


def test_every_search_stands_there_once_in_order_of_time(shop):
    ids, searches = query_ids(shop).to_list(), open_searches(shop)
    expected = {(r["user"], r["ts"], r["query_image"] or r["query"]) for r in rows(shop)}
    user = [u for u in range(len(searches.offsets) - 1) for _ in range(*searches.offsets[u : u + 2].tolist())]
    found = [(u, t, ids[q]) for u, t, q in zip(user, searches.ts.tolist(), searches.query.tolist(), strict=True)]
    assert len(found) == len(set(found)) == shop.meta["counts"]["searches"] == 120 and set(found) == expected
    assert [row[:2] for row in found] == sorted(row[:2] for row in found) and ids == sorted(set(ids))


def test_a_sample_sees_what_was_searched_strictly_before_it(shop):
    searches = open_searches(shop)
    frame = pl.concat([shop.samples(split).select("user", "ts").collect() for split in SPLITS])
    user, ts = (frame[name].to_numpy().astype("int64") for name in ("user", "ts"))
    found = searches.before(user, ts)
    events = {(r["user"], r["ts"], r["query_image"] or r["query"]) for r in rows(shop)}
    assert found.tolist() == [sum(u == e[0] and e[1] < t for e in events) for u, t in zip(user, ts, strict=True)]
    assert found.min() == 0 and found.max() > 5
    assert searches.before(user[:1], ts[:1] + 10**9) == (searches.offsets[1:] - searches.offsets[:-1])[user[0]]


def test_a_log_without_queries_says_so(small, shop, tmp_path):
    with pytest.raises(InputError, match="its log does not say what was searched for"):
        query_ids(Dataset(small))
    old = Dataset(shop.root)
    old.root = tmp_path
    with pytest.raises(InputError, match="prepare the dataset again"):
        open_searches(old)
