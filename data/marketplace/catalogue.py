"""The items: SKUs of products, categories, sellers, prices, bids, birthdays, styles, and titles that say part of it."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.marketplace.config import Market
from data.marketplace.style import COLOURS, Style, draw_styles

CATEGORIES = ("mug", "cushion", "lamp", "handbag", "t-shirt", "vase", "watch", "bottle")
BASE_PRICE = np.array([12, 18, 45, 60, 20, 30, 90, 15], np.float64)
ADJECTIVES = ("classic", "everyday", "new season", "handmade", "premium", "compact", "gift", "studio")


@dataclass(frozen=True)
class Items:
    """All SKUs, by item number; arrays are (items,) unless said otherwise.

    Attributes:
        spu: product. category: index into CATEGORIES. seller. price: in currency units. born: day of the first
            impression at the earliest. style: what the photo shows. vector: (items, STYLE_DIM), the style as numbers.
        quality: what buyers learn of a product otherwise, N(0, 1). value: what a click is worth to the seller, in
            currency units. bid: the most the seller pays for a click, at most `value`. reserve: the least a click
            costs; an item that bids less takes no part. title: words.
    """

    spu: np.ndarray
    category: np.ndarray
    seller: np.ndarray
    price: np.ndarray
    born: np.ndarray
    style: Style
    vector: np.ndarray
    quality: np.ndarray
    value: np.ndarray
    bid: np.ndarray
    reserve: np.ndarray
    title: list[str]

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
                "name": self.title,
                "category": [CATEGORIES[c] for c in self.category],
                "shop": [f"shop-{s:04d}" for s in self.seller],
                "price": self.price,
                "photo": [f"{sku}.jpg" for sku in skus],
            }
        )


def make_items(market: Market) -> Items:
    """The catalogue of a world: the SKUs of the logs, then those that go live in the later days, at the same rate."""
    rng = np.random.default_rng([market.seed, 1])
    products = max(1, round(market.items / market.skus_per_spu))
    later_rate = market.born_later / (market.days - 1)  # a day, as a share of the products
    later_products = round(products * later_rate * market.later_days)
    spu = _skus(products, market.items, rng)
    if later_products:
        spu = np.concatenate([spu, products + _skus(later_products, round(later_products * market.skus_per_spu), rng)])
    total, n = products + later_products, len(spu)
    category = rng.integers(0, len(CATEGORIES), total)[spu]
    weight = np.arange(1, market.sellers + 1) ** -market.seller_tail
    seller = rng.choice(market.sellers, total, p=weight / weight.sum())[spu]
    price = np.round(BASE_PRICE[category] * rng.lognormal(0, 0.4, total)[spu], 2)
    born = np.where(rng.random(total) < market.born_later, rng.integers(1, market.days, total), 0)
    born[products:] = market.days + rng.integers(0, max(1, market.later_days), later_products)
    quality = rng.normal(size=total)[spu]
    style = draw_styles(spu, rng)
    adjective = rng.integers(0, len(ADJECTIVES), total)[spu]
    named = rng.random(n) < market.colour_named
    words = zip(adjective, named, style.colour(), category, spu, strict=True)
    title = [
        f"{ADJECTIVES[a]} {f'{COLOURS[colour]} ' if has else ''}{CATEGORIES[c]} no. {product}"
        for a, has, colour, c, product in words
    ]
    value = market.margin * price * market.cart_rate * market.order_rate
    shading = market.bid_shading * rng.lognormal(0, market.bid_spread, market.sellers)
    bid = value * np.minimum(shading, 1)[seller]
    floor = [np.quantile(bid[category == c], market.reserve) if (category == c).any() else 0.0 for c in _categories()]
    reserve = np.array(floor)[category]
    return Items(spu, category, seller, price, born[spu], style, style.vector(), quality, value, bid, reserve, title)


def _skus(products: int, skus: int, rng: np.random.Generator) -> np.ndarray:
    """Product of each SKU, ascending; every product has one or more."""
    return np.sort(np.concatenate([np.arange(products), rng.integers(0, products, max(0, skus - products))]))


def _categories() -> range:
    return range(len(CATEGORIES))


def sku_names(item: np.ndarray) -> list[str]:
    """Ids of item numbers in the logs."""
    return [f"sku-{i:06d}" for i in item.tolist()]
