"""The world after its logs, as every arm of a test meets it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from data.marketplace.catalogue import CATEGORIES, Items, make_items, sku_names
from data.marketplace.config import Market, world_of
from data.marketplace.simulate import ClickRates
from data.marketplace.traffic import Traffic, draw_traffic, users_by_day
from data.marketplace.users import Users, make_users
from experiments.lift.config import LiftConfig
from ranker.slices import popularity


@dataclass(frozen=True)
class World:
    """A simulated world, its prepared logs, and where both meet.

    Attributes:
        user_rows: (users,) row of each user in the dataset, newcomers included. newcomers: rows of users that the logs
            do not know. slices: name -> (items,) bool.
    """

    config: LiftConfig
    market: Market
    items: Items
    dataset: Dataset
    user_rows: np.ndarray
    newcomers: pl.DataFrame
    slices: dict[str, np.ndarray]

    @property
    def days(self) -> range:
        """The days of the test."""
        return range(self.market.days, self.market.days + self.config.days)

    def traffic(self) -> Iterator[tuple[Users, Traffic]]:
        """The test's traffic in order of time; the same for every call."""
        for day, users in users_by_day(self.market, self.market.days):
            if day not in self.days:
                return
            for part in draw_traffic(self.items, users, self.market, day, self.config.replay):
                yield users, part

    def click_rates(self) -> ClickRates:
        """What the logging policy knew at the end of the logs."""
        rates = ClickRates(len(self.items), self.market)
        files = self.config.logs / "impressions" / "*.parquet"
        seen = pl.scan_parquet(files).group_by("sku").agg(pl.len(), pl.col("clicked").sum().cast(pl.Int64)).collect()
        item = seen["sku"].str.slice(len("sku-")).cast(pl.Int64).to_numpy()
        rates.shown[item], rates.clicked[item] = seen["len"].to_numpy(), seen["clicked"].to_numpy()
        return rates


def open_world(config: LiftConfig) -> World:
    """The world of a test.

    Raises InputError if the dataset was not prepared from these logs or the test is longer than the world.
    """
    market = world_of(config.logs)
    if config.days > market.later_days:
        raise InputError(f"days = {config.days}: the world lists products for later_days = {market.later_days} days")
    dataset, items = Dataset(config.data), make_items(market)
    known = dataset.items().select("item_id").collect()["item_id"]
    rows = market.days * market.sessions_per_day * market.slots
    prepared = sum(dataset.meta["counts"][split] for split in ("train", "valid", "test"))
    if prepared != rows or known.dtype != pl.String or known.to_list() != sku_names(np.arange(len(items))):
        raise InputError(
            f"{config.data}: not prepared from {config.logs} ({prepared:,} rows and {len(known):,} items, "
            f"the logs have {rows:,} and {len(items):,})"
        )
    row = dataset.users().select("user_id").collect().with_row_index("row")
    everybody = make_users(market).frame().rename({"uid": "user_id"})
    joined = everybody.join(row, on="user_id", how="left", maintain_order="left")
    unknown = joined["row"].is_null().to_numpy()
    user_rows = joined["row"].fill_null(0).to_numpy().astype(np.int64)
    user_rows[unknown] = len(row) + np.arange(unknown.sum())
    newcomers = everybody.filter(pl.Series(unknown)).cast(dataset.users().collect_schema())
    return World(config, market, items, dataset, user_rows, newcomers, _slices(items, dataset.train_counts("item")))


def _slices(items: Items, train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Items by slice: as in the slices of a run's metrics, for items instead of rows."""
    small = popularity(np.bincount(items.seller, train_counts).astype(np.int64)) == 2
    slices = {"all": np.ones(len(items), bool), "new_items": train_counts == 0, "small_sellers": small[items.seller]}
    return slices | {f"category_{name}": items.category == c for c, name in enumerate(CATEGORIES)}
