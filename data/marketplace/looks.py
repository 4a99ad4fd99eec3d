"""What the products of a world look like and are called: drawn from a latent style."""

from dataclasses import dataclass

import numpy as np

from data.marketplace.config import Market
from data.marketplace.style import COLOURS, HUE_DIMS, STYLE_DIM, Style, colour_vector, draw_styles

CATEGORIES = ("mug", "cushion", "lamp", "handbag", "t-shirt", "vase", "watch", "bottle")
ADJECTIVES = ("classic", "everyday", "new season", "handmade", "premium", "compact", "gift", "studio")


@dataclass(frozen=True)
class Looks:
    """The looks of all SKUs; arrays are (items,) unless said otherwise.

    Attributes:
        spu: product, ascending; those from `products` on go live after the logs. category: index into `categories`.
        title. vector: (items, STYLE_DIM), the look as numbers, mean 0 and variance 1 each. style: what is drawn; None
            for real photos, whose names in their tar are `files`.
        colours: colour words of queries. wanted: (colours, STYLE_DIM), the look that a word names. shown: the same
            shape, bool, the dimensions that it speaks of.
    """

    products: int
    spu: np.ndarray
    category: np.ndarray
    categories: tuple[str, ...]
    title: list[str]
    vector: np.ndarray
    style: Style | None
    files: list[str]
    colours: tuple[str, ...]
    wanted: np.ndarray
    shown: np.ndarray

    def __len__(self) -> int:
        return len(self.spu)


def later_share(market: Market) -> float:
    """SKUs that go live in the later days, as a share of those of the logs: the same number a day."""
    return market.born_later * market.later_days / (market.days - 1)


def drawn_looks(market: Market, rng: np.random.Generator) -> Looks:
    """Looks that are drawn; SKUs of a product differ in hue and light, and titles name part of it."""
    products = max(1, round(market.items / market.skus_per_spu))
    later = round(products * later_share(market))
    spu = _skus(products, market.items, rng)
    if later:
        spu = np.concatenate([spu, products + _skus(later, round(later * market.skus_per_spu), rng)])
    total = products + later
    category = rng.integers(0, len(CATEGORIES), total)[spu]
    style = draw_styles(spu, rng)
    adjective = rng.integers(0, len(ADJECTIVES), total)[spu]
    named = rng.random(len(spu)) < market.colour_named
    words = zip(adjective, named, style.colour(), category, spu, strict=True)
    title = [
        f"{ADJECTIVES[a]} {f'{COLOURS[colour]} ' if has else ''}{CATEGORIES[c]} no. {product}"
        for a, has, colour, c, product in words
    ]
    wanted, shown = np.zeros((len(COLOURS), STYLE_DIM)), np.zeros((len(COLOURS), STYLE_DIM), bool)
    wanted[:, HUE_DIMS], shown[:, HUE_DIMS] = colour_vector(np.arange(len(COLOURS))), True
    return Looks(
        products, spu, category, CATEGORIES, title, style.vector(), style, [], COLOURS, wanted, shown
    )  # fmt: skip


def _skus(products: int, skus: int, rng: np.random.Generator) -> np.ndarray:
    """Product of each SKU, ascending; every product has one or more."""
    return np.sort(np.concatenate([np.arange(products), rng.integers(0, products, max(0, skus - products))]))
