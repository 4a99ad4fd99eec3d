"""A dataset that goes on: histories are those of the one big log, at every moment."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.errors import InputError
from data.live import LiveDataset
from data.marketplace.config import Market
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular

DAY = 86_400
MARKET = Market(days=4, items=300, users=60, sessions_per_day=200, image_size=16, image_queries=0.0)  # pyright: ignore


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("live")
    logs = simulate(MARKET, root / "logs")
    prepare(Tabular(logs, logs / "columns.yaml"), root / "data")
    return root


def test_histories_added_piece_by_piece_are_those_of_the_whole_log(whole, tmp_path):
    """Days 0 to 2 are prepared, day 3 is played back in four pieces; every sample of day 3 sees the same history."""
    everything, since = Dataset(whole / "data"), MARKET.first_day + 3 * DAY
    logs = tmp_path / "logs"
    for name in ("impressions", "actions"):
        (logs / name).mkdir(parents=True)
        for day in range(3):
            (logs / name / f"day-{day:03d}.parquet").hardlink_to(whole / "logs" / name / f"day-{day:03d}.parquet")
    for name in ("items.parquet", "users.parquet", "columns.yaml", "photos.tar", "queries.tar"):
        (logs / name).hardlink_to(whole / "logs" / name)
    prepare(Tabular(logs, logs / "columns.yaml"), tmp_path / "data")
    known = Dataset(tmp_path / "data").users().collect()
    all_users = everything.users().collect()
    newcomers = all_users.filter(~pl.col("user_id").is_in(known["user_id"].implode()))
    live = LiveDataset(tmp_path / "data", since, newcomers)
    row = pl.DataFrame({"user_id": live.users().collect()["user_id"]}).with_row_index("live")
    renumber = all_users.select("user_id").join(row, on="user_id", how="left", maintain_order="left")["live"].to_numpy()

    b = everything.behaviors()
    owner = np.repeat(np.arange(len(b.offsets) - 1), np.diff(b.offsets))
    spilled = pl.read_parquet(logs / "actions" / "day-002.parquet").filter(pl.col("time") >= since)
    fresh = np.flatnonzero(b.ts >= since)
    already = set(spilled.select("uid", "time", "sku", "action").iter_rows())
    uid, sku = all_users["user_id"].to_numpy(), everything.items().collect()["item_id"].to_list()
    names = everything.actions
    fresh = np.array([i for i in fresh if (uid[owner[i]], b.ts[i], sku[b.item[i]], names[b.action[i]]) not in already])
    samples = everything.samples("test").filter(pl.col("ts") >= since).collect()
    cuts = [since, since + 3 * 3600, since + 12 * 3600, since + 18 * 3600, since + DAY]
    checked = 0
    for first, last in pairwise(cuts):
        piece = samples.filter((pl.col("ts") >= first) & (pl.col("ts") < last))
        user, ts = renumber[piece["user"].to_numpy()].astype(np.int64), piece["ts"].to_numpy()
        now = fresh[b.ts[fresh] < last]
        live_now = LiveDataset(tmp_path / "data", since, newcomers)
        for part in np.array_split(np.random.default_rng(0).permutation(now), 3):
            live_now.add(renumber[owner[part]].astype(np.int64), b.item[part], b.ts[part], b.action[part])
        ends, found = live_now.history_ends(user, ts), live_now.behaviors()
        assert (ends == piece["history_end"].to_numpy()).all()
        for k in range(0, len(piece), 7):
            theirs = b.offsets[piece["user"][k]] + np.arange(ends[k])
            ours = found.offsets[user[k]] + np.arange(ends[k])
            for name in ("item", "ts", "action"):
                assert (getattr(found, name)[ours] == getattr(b, name)[theirs]).all()
            checked += int(ends[k])
    assert checked > 100 and live.meta["counts"]["users"] == len(all_users)
    assert live.train_counts("user").sum() == Dataset(tmp_path / "data").meta["counts"]["train"]


def test_what_is_too_early_or_has_side_columns_is_refused(whole, small):
    live = LiveDataset(whole / "data", MARKET.first_day + 4 * DAY)
    with pytest.raises(ValueError, match="earlier than"):
        live.add(np.array([0]), np.array([0]), np.array([5]), np.array([0]))
    with pytest.raises(InputError, match=r"side columns \(rating\) cannot be continued"):
        LiveDataset(small, 0)
