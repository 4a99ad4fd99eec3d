"""The items: SKUs of products with their looks, categories, sellers, prices, bids and birthdays."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.marketplace.config import Market
from data.marketplace.looks import Looks, drawn_looks
from data.marketplace.photographed import photographed_looks

BASE_PRICE = np.array([12, 18, 45, 60, 20, 30, 90, 15], np.float64)  # by category, currency units


@dataclass(frozen=True)
class Items:
    """All SKUs, by item number; arrays are (items,) unless said otherwise.

    Attributes:
        looks: what they look like and are called. spu: product. category: index into `looks.categories`. vector:
            (items, STYLE_DIM), the look as numbers. seller. price: in currency units. born: day of the first impression
            at the earliest. quality: what buyers learn of an SKU otherwise, N(0, 1). value: what a click is worth to
            the seller, in currency units. bid: the most the seller pays for a click, at most `value`. reserve: the
            least a click costs; an item that bids less takes no part.
    """

    looks: Looks
    spu: np.ndarray
    category: np.ndarray
    vector: np.ndarray
    seller: np.ndarray
    price: np.ndarray
    born: np.ndarray
    quality: np.ndarray
    value: np.ndarray
    bid: np.ndarray
    reserve: np.ndarray

    def __len__(self) -> int:
        return len(self.spu)

    def alive(self, category: int, day: int) -> np.ndarray:
        """Items of a category that take part on a day: born, and bidding at least the reserve."""
        return np.flatnonzero((self.category == category) & (self.born <= day) & (self.bid >= self.reserve))

    def frame(self) -> pl.DataFrame:
        """The catalogue as a shop would export it: no style, no quality, no bid."""
        skus = sku_names(np.arange(len(self)))
        return pl.DataFrame(
            {
                "sku": skus,
                "spu": self.spu,
                "name": self.looks.title,
                "category": [self.looks.categories[c] for c in self.category],
                "shop": [f"shop-{s:04d}" for s in self.seller],
                "price": self.price,
                "photo": [f"{sku}.jpg" for sku in skus],
            }
        )


def make_items(market: Market) -> Items:
    """The catalogue of a world: the SKUs of the logs, then those that go live in the later days.

    Raises InputError if real photos are wanted and the folder does not have them.
    """
    rng = np.random.default_rng([market.seed, 1])
    looks = drawn_looks(market, rng) if market.photos is None else photographed_looks(market, rng)
    spu, category = looks.spu, looks.category
    total = int(spu.max()) + 1
    weight = np.arange(1, market.sellers + 1) ** -market.seller_tail
    seller = rng.choice(market.sellers, total, p=weight / weight.sum())[spu]
    price = np.round(BASE_PRICE[category] * rng.lognormal(0, 0.4, total)[spu], 2)
    born = np.where(rng.random(total) < market.born_later, rng.integers(1, market.days, total), 0)
    born[looks.products :] = market.days + rng.integers(0, max(1, market.later_days), total - looks.products)
    quality = rng.normal(size=len(spu))  # an SKU's own: a look that tells the product must not tell it
    value = market.margin * price * market.cart_rate * market.order_rate
    shading = market.bid_shading * rng.lognormal(0, market.bid_spread, market.sellers)
    bid = value * np.minimum(shading, 1)[seller]
    reserve = np.zeros(len(spu))
    for c in np.unique(category):
        reserve[category == c] = np.quantile(bid[category == c], market.reserve)
    return Items(
        looks, spu, category, looks.vector, seller, price, born[spu], quality, value, bid, reserve
    )  # fmt: skip


def sku_names(item: np.ndarray) -> list[str]:
    """Ids of item numbers in the logs."""
    return [f"sku-{i:06d}" for i in item.tolist()]
