"""The items: SKUs of products, categories, sellers, prices, birthdays, styles, and titles that say part of it."""

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
        quality: what buyers learn of a product otherwise, N(0, 1). title: words.
    """

    spu: np.ndarray
    category: np.ndarray
    seller: np.ndarray
    price: np.ndarray
    born: np.ndarray
    style: Style
    vector: np.ndarray
    quality: np.ndarray
    title: list[str]

    def __len__(self) -> int:
        return len(self.spu)

    def frame(self) -> pl.DataFrame:
        """The catalogue as a shop would export it: no style, no quality."""
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
    """The catalogue of a world."""
    rng, n = np.random.default_rng([market.seed, 1]), market.items
    products = max(1, round(n / market.skus_per_spu))
    spu = np.sort(np.concatenate([np.arange(products), rng.integers(0, products, n - products)]))
    category = rng.integers(0, len(CATEGORIES), products)[spu]
    weight = np.arange(1, market.sellers + 1) ** -market.seller_tail
    seller = rng.choice(market.sellers, products, p=weight / weight.sum())[spu]
    price = np.round(BASE_PRICE[category] * rng.lognormal(0, 0.4, products)[spu], 2)
    later = rng.random(products) < market.born_later
    born = np.where(later, rng.integers(1, market.days, products), 0)[spu]
    quality = rng.normal(size=products)[spu]
    style = draw_styles(spu, rng)
    adjective = rng.integers(0, len(ADJECTIVES), products)[spu]
    named = rng.random(n) < market.colour_named
    words = zip(adjective, named, style.colour(), category, spu, strict=True)
    title = [
        f"{ADJECTIVES[a]} {f'{COLOURS[colour]} ' if has else ''}{CATEGORIES[c]} no. {product}"
        for a, has, colour, c, product in words
    ]
    return Items(spu, category, seller, price, born, style, style.vector(), quality, title)


def sku_names(item: np.ndarray) -> list[str]:
    """Ids of item numbers in the logs."""
    return [f"sku-{i:06d}" for i in item.tolist()]
