"""The users: tastes over styles that drift, category and price preferences, and how often they come."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.marketplace.catalogue import BASE_PRICE
from data.marketplace.config import Market
from data.marketplace.style import STYLE_DIM

REGIONS = 6


@dataclass(frozen=True)
class Users:
    """All users on one day.

    Attributes:
        taste: (users, STYLE_DIM), N(0, 1) each. category: (users, categories), N(0, 1). price_level: (users,), log
            of the price they like relative to the category's base. activity: (users,), sums to one. region: (users,).
    """

    taste: np.ndarray
    category: np.ndarray
    price_level: np.ndarray
    activity: np.ndarray
    region: np.ndarray

    def frame(self) -> pl.DataFrame:
        """What the shop knows of its users."""
        return pl.DataFrame({"uid": np.arange(len(self.region)), "region": [f"region-{r}" for r in self.region]})

    def next_day(self, market: Market, day: int) -> "Users":
        """The same users a day later; tastes keep their variance while they drift."""
        rng = np.random.default_rng([market.seed, 4, day])
        keep = 1 - market.taste_drift
        taste = keep * self.taste + np.sqrt(1 - keep**2) * rng.normal(size=self.taste.shape)
        return Users(taste, self.category, self.price_level, self.activity, self.region)


def make_users(market: Market) -> Users:
    """The users of a world on its first day."""
    rng, n = np.random.default_rng([market.seed, 3]), market.users
    activity = rng.lognormal(0, market.activity_tail, n)
    return Users(
        rng.normal(size=(n, STYLE_DIM)),
        rng.normal(size=(n, len(BASE_PRICE))),
        rng.normal(0, 0.4, n),
        activity / activity.sum(),
        rng.integers(0, REGIONS, n),
    )
