"""Searches that grow, against a plain list."""

import numpy as np
import polars as pl
import pytest

from data.dataset import SPLITS
from data.live_searches import LiveSearches
from tests.data.test_pairs import prepared, write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    write_shop(root / "raw", {"rule": "temporal", "train": 0.6, "valid": 0.2})
    return prepared(root / "raw", root / "data")[0]


def test_they_are_those_of_the_dataset_and_those_added(shop):
    frame = pl.concat([shop.samples(split).select("user", "ts", "query", "query_image").collect() for split in SPLITS])
    log = [(r["user"], r["ts"], r["query_image"] or r["query"]) for r in frame.unique().iter_rows(named=True)]
    live, last = LiveSearches(shop), frame["ts"].max()
    users = shop.meta["counts"]["users"]
    moments = [*frame.select("user", "ts").unique().iter_rows(), *((user, last + 50) for user in range(users + 2))]

    def check() -> int:
        user, ts = (np.array(column) for column in zip(*moments, strict=True))
        for length in (1, 3, 1000):
            expected = []
            for who, now in moments:
                past = sorted((t, name) for u, t, name in log if u == who and t < now)
                expected.append([name for _, name in past][-length:] or None)
            found = live.before(user, ts, length).to_list()
            assert found == expected
        return max(map(len, filter(None, expected)))

    assert check() > 5
    for step, names in enumerate((["b new", None, "a new"], ["a new", log[0][2], None])):
        added = [(0, last + 40 + step), (1, last + 3), (users, last + 2 + step)]  # the last is a newcomer
        live.add(*(np.array(column) for column in zip(*added, strict=True)), pl.Series(names, dtype=pl.String))
        log += [(*when, name) for when, name in zip(added, names, strict=True) if name is not None]
        check()
    live.add(np.empty(0, np.int64), np.empty(0, np.int64), pl.Series([], dtype=pl.String))
    check()
