"""The latent style of a product: what its photo shows and its title mostly leaves out."""

from dataclasses import dataclass

import numpy as np

PATTERNS = ("plain", "stripes", "dots", "checks", "waves")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")
COLOUR_HUES = np.array([0.0, 0.08, 0.16, 0.36, 0.48, 0.61, 0.76, 0.92])
HUE_DIMS = slice(0, 2)
STYLE_DIM = 3 + len(PATTERNS) + 3


@dataclass(frozen=True)
class Style:
    """Styles of n things; arrays are (n,).

    Attributes:
        hue: colour on the wheel, [0, 1). light, roundness, grain (texture), clutter (of the background): in [0, 1].
        pattern: index into PATTERNS.
    """

    hue: np.ndarray
    light: np.ndarray
    pattern: np.ndarray
    roundness: np.ndarray
    grain: np.ndarray
    clutter: np.ndarray

    def vector(self) -> np.ndarray:
        """(n, STYLE_DIM): hue's cosine and sine, light, one-hot pattern, roundness, grain, clutter; each of mean 0 and
        variance 1 under `draw_styles`."""
        angle = 2 * np.pi * self.hue
        even = np.sqrt(12) * (np.column_stack([self.light, self.roundness, self.grain, self.clutter]) - 0.5)
        share = 1 / len(PATTERNS)
        pattern = (np.eye(len(PATTERNS))[self.pattern] - share) / np.sqrt(share * (1 - share))
        around = np.sqrt(2) * np.column_stack([np.cos(angle), np.sin(angle)])
        return np.column_stack([around, even[:, :1], pattern, even[:, 1:]])

    def colour(self) -> np.ndarray:
        """(n,) index into COLOURS of the nearest colour word."""
        off = np.abs(self.hue[:, None] - COLOUR_HUES)
        return np.minimum(off, 1 - off).argmin(1)


def draw_styles(product: np.ndarray, rng: np.random.Generator) -> Style:
    """One style an SKU; SKUs of one `product` (n,) share everything but hue and light."""
    count, n = int(product.max()) + 1, len(product)
    pattern = rng.integers(0, len(PATTERNS), count)[product]
    roundness, grain, clutter = (rng.random(count)[product] for _ in range(3))
    return Style(rng.random(n), rng.random(n), pattern, roundness, grain, clutter)


def colour_vector(colour: np.ndarray) -> np.ndarray:
    """(n, 2): where the hue dimensions of a style vector stand for colour words."""
    angle = 2 * np.pi * COLOUR_HUES[colour]
    return np.sqrt(2) * np.column_stack([np.cos(angle), np.sin(angle)])
