"""Random views of a picture, as another scan, crop, photo or print of it would look; by numpy and PIL.

A view depends on (seed, view, item) alone, so that a resumed run sees the same ones.
"""

import numpy as np
from PIL import Image, ImageFilter
from pydantic import Field

from data.config import Config


class Augmentation(Config):
    """Which changes a view may have, each with its probability; their strength is drawn uniformly up to the bound."""

    crop: float = Field(0.8, ge=0, le=1, description="probability of a crop")
    smallest_crop: float = Field(0.5, gt=0, le=1, description="smallest share of each side that a crop keeps")
    background: float = Field(0.2, ge=0, le=1, description="probability of lying on a plain ground of random colour")
    largest_margin: float = Field(0.25, ge=0, lt=0.5, description="widest margin of that ground, share of a side")
    cast: float = Field(0.6, ge=0, le=1, description="probability of a colour cast, contrast and brightness")
    cast_strength: float = Field(0.35, ge=0, lt=1, description="largest relative change of a channel's gain")
    noise: float = Field(0.3, ge=0, le=1, description="probability of sensor noise")
    largest_noise: float = Field(16.0, ge=0, description="largest standard deviation of the noise, of 255")
    blur: float = Field(0.3, ge=0, le=1, description="probability of a blur or a loss of resolution")
    largest_blur: float = Field(1.5, ge=0, description="largest radius of the blur, in pixels")
    flip: float = Field(0.1, ge=0, le=1, description="probability of a left-right flip")
    grey: float = Field(0.1, ge=0, le=1, description="probability of losing the colour")


def augmented(image: Image.Image, how: Augmentation, seed: int, view: int, item: int) -> Image.Image:
    """One view of an RGB picture."""
    rng = np.random.default_rng([seed, 7, view, item])
    if rng.random() < how.crop:
        image = _crop(image, how.smallest_crop, rng)
    if rng.random() < how.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < how.background:
        image = _laid_on_ground(image, how.largest_margin, rng)
    if rng.random() < how.blur:
        image = _blurred(image, how.largest_blur, rng)
    if rng.random() < how.grey:
        image = image.convert("L").convert("RGB")
    cast, noise = rng.random() < how.cast, rng.random() < how.noise
    if not cast and not noise:
        return image
    pixels = np.asarray(image, dtype=np.float32)
    if cast:
        gain = 1 + rng.uniform(-how.cast_strength, how.cast_strength, 3)
        gain = gain * (1 + rng.uniform(-how.cast_strength, how.cast_strength))
        offset = 255 * rng.uniform(-how.cast_strength, how.cast_strength) / 3
        pixels = (pixels - 128) * gain + 128 + offset
    if noise:
        pixels = pixels + rng.normal(0, rng.uniform(0, how.largest_noise), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def words_dropped(text: str, share: float, seed: int, view: int, item: int) -> str:
    """The text with each word left out with probability `share`; at least one word stays."""
    words = text.split()
    rng = np.random.default_rng([seed, 8, view, item])
    kept = rng.random(len(words)) >= share
    if len(words) and not kept.any():
        kept[rng.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


def _crop(image: Image.Image, smallest: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    w, h = (max(int(side * rng.uniform(smallest, 1)), 1) for side in (width, height))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return image.crop((left, top, left + w, top + h))


def _laid_on_ground(image: Image.Image, margin: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    left, right = (int(width * rng.uniform(0, margin)) for _ in range(2))
    top, bottom = (int(height * rng.uniform(0, margin)) for _ in range(2))
    ground = Image.new("RGB", (width + left + right, height + top + bottom), tuple(rng.integers(0, 256, 3).tolist()))
    ground.paste(image, (left, top))
    return ground


def _blurred(image: Image.Image, largest: float, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, largest)))
    factor = rng.uniform(0.3, 1)
    small = (max(int(image.width * factor), 1), max(int(image.height * factor), 1))
    return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
