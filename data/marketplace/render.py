"""Product photos: a silhouette of the category in the item's colour, pattern, texture and clutter."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.marketplace.catalogue import CATEGORIES, PATTERNS, Items
from data.marketplace.config import Market


def write_photos(items: Items, market: Market, path: Path) -> None:
    """All photos as JPEG into a tar, keys as in the catalogue; the same bytes for the same world."""
    with tarfile.open(path, "w") as tar:
        for item, name in enumerate(items.frame()["photo"]):
            data = io.BytesIO()
            Image.fromarray(photo(items, item, market)).save(data, "JPEG", quality=88)
            info = tarfile.TarInfo(name)
            info.size = data.tell()
            data.seek(0)
            tar.addfile(info, data)


def photo(items: Items, item: int, market: Market) -> np.ndarray:
    """One photo, (image_size, image_size, 3) uint8."""
    rng = np.random.default_rng([market.seed, 2, item])
    size = market.image_size
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    shift = rng.uniform(-0.06, 0.06, 2)
    angle = rng.uniform(-0.12, 0.12)
    x0, y0 = np.meshgrid(axis - shift[0], axis - shift[1])
    x, y = x0 * np.cos(angle) - y0 * np.sin(angle), x0 * np.sin(angle) + y0 * np.cos(angle)
    canvas = _background(x0, y0, float(items.clutter[item]), rng)
    inside = _silhouette(CATEGORIES[items.category[item]], x, y, float(items.roundness[item]))
    mask = np.clip(inside * size / 4, 0, 1)[:, :, None]
    surface = _surface(items, item, x, y, rng)
    shadow = np.clip(_silhouette(CATEGORIES[items.category[item]], x - 0.06, y - 0.08, items.roundness[item]) * 6, 0, 1)
    canvas = canvas * (1 - 0.25 * shadow[:, :, None])
    image = canvas * (1 - mask) + surface * mask
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _surface(items: Items, item: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    light = 0.35 + 0.5 * items.light[item]
    ground = hsv(items.hue[item], 0.75, light)
    mark = hsv(items.hue[item] + 0.08, 0.35, min(1.0, light + 0.35) if light < 0.6 else light - 0.4)
    pattern = _pattern(PATTERNS[items.pattern[item]], x, y)[:, :, None]
    colour = ground * (1 - pattern) + mark * pattern
    shade = 1.0 - 0.25 * np.clip(x * 0.8 + y * 0.4, -1, 1)
    noise = rng.normal(size=x.shape)
    noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return colour * (shade * (1 + 0.35 * items.grain[item] * noise))[:, :, None]


def _pattern(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the second colour shows, in [0, 1]."""
    k = 14.0
    if name == "stripes":
        return _soft(np.sin(k * 1.3 * x))
    if name == "dots":
        return _soft(np.cos(k * x) * np.cos(k * y) - 0.35)
    if name == "checks":
        return 0.5 * _soft(np.sin(k * x)) + 0.5 * _soft(np.sin(k * y))
    if name == "waves":
        return _soft(np.sin(k * y + 2.5 * np.sin(5 * x)))
    return np.zeros_like(x)


def _soft(wave: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-12 * wave))


def _background(x: np.ndarray, y: np.ndarray, clutter: float, rng: np.random.Generator) -> np.ndarray:
    """Studio white to a busy room, by clutter."""
    canvas = np.ones((*x.shape, 3)) * (0.97 - 0.12 * clutter * (y[:, :, None] > 0.55))
    for _ in range(round(clutter * 9)):
        cx, cy = rng.uniform(-1, 1, 2)
        wide, high = rng.uniform(0.1, 0.35, 2)
        colour = hsv(rng.random(), 0.25 + 0.3 * rng.random(), 0.6 + 0.35 * rng.random())
        where = ((np.abs(x - cx) < wide) & (np.abs(y - cy) < high))[:, :, None]
        canvas = np.where(where, 0.35 * canvas + 0.65 * colour, canvas)
    return canvas


def _silhouette(category: str, x: np.ndarray, y: np.ndarray, roundness: float) -> np.ndarray:
    """Signed inside-ness (> 0 inside, about distance) of the category's outline; roundness bends corners."""
    r = float(roundness)
    if category == "mug":
        return np.maximum(_box(x + 0.1, y, 0.42, 0.45, 0.05 + 0.35 * r), 0.09 - np.abs(np.hypot(x - 0.42, y) - 0.24))
    if category == "cushion":
        return _box(x, y, 0.6, 0.6, 0.05 + 0.5 * r)
    if category == "lamp":
        shade = np.minimum(0.3 + 0.25 * r - np.abs(x) + 0.55 * (y + 0.35), np.minimum(0.02 - y, y + 0.62))
        return np.maximum(np.maximum(shade, _box(x, y - 0.3, 0.05, 0.4, 0.03)), _box(x, y - 0.65, 0.3, 0.06, 0.05))
    if category == "handbag":
        return np.maximum(
            _box(x, y - 0.2, 0.58, 0.4, 0.05 + 0.3 * r), 0.06 - np.abs(np.hypot(x, (y + 0.2) * (1.2 - 0.4 * r)) - 0.36)
        )
    if category == "t-shirt":
        sleeves = _box(np.abs(x) - 0.5, y + 0.38 - 0.3 * (np.abs(x) - 0.5), 0.22, 0.17 + 0.06 * r, 0.04)
        body = np.maximum(_box(x, y - 0.05, 0.4, 0.62, 0.05 + 0.1 * r), sleeves)
        return np.minimum(body, np.hypot(x, (y + 0.68) * 1.3) - 0.2)
    if category == "vase":
        width = 0.22 + (0.12 + 0.22 * r) * np.cos(2.2 * (y - 0.2)) ** 2
        return np.minimum(width - np.abs(x), 0.75 - np.abs(y))
    if category == "watch":
        dial = np.maximum(0.4 - np.hypot(x, y), _box(x, y, 0.38, 0.38, 0.05)) if r < 0.5 else 0.42 - np.hypot(x, y)
        return np.maximum(dial, _box(x, y, 0.18, 0.85, 0.06))
    neck = _box(x, y + 0.6, 0.1, 0.25, 0.03)
    return np.maximum(neck, _box(x, y - 0.2, 0.3, 0.58, 0.05 + 0.25 * r))


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float, corner: float) -> np.ndarray:
    """Inside-ness of a box with rounded corners."""
    corner = min(corner, half_width, half_height)
    dx, dy = np.abs(x) - half_width + corner, np.abs(y) - half_height + corner
    return corner - np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) - np.minimum(np.maximum(dx, dy), 0)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB in [0, 1], (3,)."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
