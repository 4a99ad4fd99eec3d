"""The items: SKUs of products, categories, sellers, prices, birthdays, styles, and titles that say part of it."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.marketplace.config import Market

CATEGORIES = ("mug", "cushion", "lamp", "handbag", "t-shirt", "vase", "watch", "bottle")
PATTERNS = ("plain", "stripes", "dots", "checks", "waves")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")
ADJECTIVES = ("classic", "everyday", "new season", "handmade", "premium", "compact", "gift", "studio")
BASE_PRICE = np.array([12, 18, 45, 60, 20, 30, 90, 15], np.float64)
COLOUR_WORD_RATE = 0.5
STYLE_DIM = 2 + 1 + len(PATTERNS) + 3


@dataclass(frozen=True)
class Items:
    """All SKUs, by item number; arrays are (items,) unless said otherwise.

    Attributes:
        spu: product. category: index into CATEGORIES. seller. price: in currency units. born: day.
        hue, light, roundness, grain, clutter: in [0, 1]. pattern: index into PATTERNS. style: (items, STYLE_DIM), the
            visible properties as standardised numbers. quality: what buyers learn of an item otherwise, N(0, 1).
    """

    spu: np.ndarray
    category: np.ndarray
    seller: np.ndarray
    price: np.ndarray
    born: np.ndarray
    hue: np.ndarray
    light: np.ndarray
    roundness: np.ndarray
    grain: np.ndarray
    clutter: np.ndarray
    pattern: np.ndarray
    style: np.ndarray
    quality: np.ndarray
    title: list[str]

    def __len__(self) -> int:
        return len(self.spu)

    def frame(self) -> pl.DataFrame:
        """The catalogue as a shop would export it: no style, no quality."""
        return pl.DataFrame(
            {
                "sku": [f"sku-{i:06d}" for i in range(len(self))],
                "spu": self.spu,
                "name": self.title,
                "category": [CATEGORIES[c] for c in self.category],
                "shop": [f"shop-{s:04d}" for s in self.seller],
                "price": self.price,
                "photo": [f"sku-{i:06d}.jpg" for i in range(len(self))],
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
    pattern = rng.integers(0, len(PATTERNS), products)[spu]
    roundness, grain, clutter = (rng.random(products)[spu] for _ in range(3))
    hue, light = rng.random(n), rng.random(n)
    quality = rng.normal(size=products)[spu]
    style = np.column_stack(
        [
            np.cos(2 * np.pi * hue),
            np.sin(2 * np.pi * hue),
            light,
            np.eye(len(PATTERNS))[pattern],
            roundness,
            grain,
            clutter,
        ]
    )
    style = (style - style.mean(0)) / style.std(0).clip(1e-9)
    adjective = rng.integers(0, len(ADJECTIVES), products)[spu]
    named = rng.random(n) < COLOUR_WORD_RATE
    colour = (np.round(hue * len(COLOURS)).astype(int)) % len(COLOURS)
    title = [
        " ".join(
            [
                ADJECTIVES[adjective[i]],
                *([COLOURS[colour[i]]] if named[i] else []),
                CATEGORIES[category[i]],
                f"no. {spu[i]}",
            ]
        )
        for i in range(n)
    ]
    return Items(
        spu, category, seller, price, born, hue, light, roundness, grain, clutter, pattern, style, quality, title
    )
