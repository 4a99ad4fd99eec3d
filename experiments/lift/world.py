"""The world after its logs, as every arm of a test meets it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from data.marketplace.catalogue import Items, make_items, sku_names
from data.marketplace.config import Market, world_of
from data.marketplace.simulate import ClickRates
from data.marketplace.traffic import Traffic, draw_traffic, users_by_day
from data.marketplace.users import Users, make_users
from ranker.slices import popularity


@dataclass(frozen=True)
class World:
    """A simulated world, its prepared logs, and where both meet.

    Attributes:
        user_rows: (users,) row of each user in the dataset, newcomers included. newcomers: rows of users that the logs
            do not know. slices: name -> (items,) bool.
    """

    logs: Path
    market: Market
    items: Items
    dataset: Dataset
    user_rows: np.ndarray
    newcomers: pl.DataFrame
    slices: dict[str, np.ndarray]

    def traffic(self, days: range, replay: int) -> Iterator[tuple[Users, Traffic]]:
        """The traffic of some days in order of time; the same for every call. `replay`: see `draw_traffic`."""
        for day, users in users_by_day(self.market, days.start):
            if day not in days:
                return
            for part in draw_traffic(self.items, users, self.market, day, replay):
                yield users, part

    def click_rates(self, days: int) -> ClickRates:
        """What the logging policy knew after so many days of logs."""
        rates = ClickRates(len(self.items), self.market)
        if not days:
            return rates
        files = [self.day_file(day) for day in range(days)]
        seen = pl.scan_parquet(files).group_by("sku").agg(pl.len(), pl.col("clicked").sum().cast(pl.Int64)).collect()
        item = item_numbers(seen["sku"])
        rates.shown[item], rates.clicked[item] = seen["len"].to_numpy(), seen["clicked"].to_numpy()
        return rates

    def day_file(self, day: int) -> Path:
        """The impressions of a day of the logs."""
        return self.logs / "impressions" / f"day-{day:03d}.parquet"


def item_numbers(sku: pl.Series) -> np.ndarray:
    """Item numbers (n,) of the ids in the logs."""
    return sku.str.slice(len("sku-")).cast(pl.Int64).to_numpy()


def open_world(logs: Path, data: Path) -> World:
    """The world that wrote `logs`, which were prepared into `data`.

    Raises InputError if the dataset was not prepared from these logs.
    """
    market = world_of(logs)
    dataset, items = Dataset(data), make_items(market)
    known = dataset.items().select("item_id").collect()["item_id"]
    rows = market.days * market.sessions_per_day * market.slots
    prepared = sum(dataset.meta["counts"][split] for split in ("train", "valid", "test"))
    if prepared != rows or known.dtype != pl.String or known.to_list() != sku_names(np.arange(len(items))):
        raise InputError(
            f"{data}: not prepared from {logs} ({prepared:,} rows and {len(known):,} items, "
            f"the logs have {rows:,} and {len(items):,})"
        )
    row = dataset.users().select("user_id").collect().with_row_index("row")
    everybody = make_users(market).frame().rename({"uid": "user_id"})
    joined = everybody.join(row, on="user_id", how="left", maintain_order="left")
    unknown = joined["row"].is_null().to_numpy()
    user_rows = joined["row"].fill_null(0).to_numpy().astype(np.int64)
    user_rows[unknown] = len(row) + np.arange(unknown.sum())
    newcomers = everybody.filter(pl.Series(unknown)).cast(dataset.users().collect_schema())
    return World(logs, market, items, dataset, user_rows, newcomers, _slices(items, dataset.train_counts("item")))


def _slices(items: Items, train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Items by slice: as in the slices of a run's metrics, for items instead of rows."""
    small = popularity(np.bincount(items.seller, train_counts).astype(np.int64)) == 2
    slices = {"all": np.ones(len(items), bool), "new_items": train_counts == 0, "small_sellers": small[items.seller]}
    return slices | {f"category_{name}": items.category == c for c, name in enumerate(items.looks.categories)}
