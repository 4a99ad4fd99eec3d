"""Product photos: a silhouette of the category in the item's colour, pattern, texture and clutter."""

import io
import math
import tarfile
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from data.marketplace.looks import CATEGORIES, Looks
from data.marketplace.style import PATTERNS, Style


class PhotoTar:
    """An uncompressed tar that grows photo by photo; equal photos give equal bytes. A context manager."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w")  # noqa: SIM115

    def __enter__(self) -> "PhotoTar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def add(self, key: str, data: bytes) -> None:
        """Append an encoded photo."""
        info = tarfile.TarInfo(key)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (else memory grows with the photos)


def jpeg(photo: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 as a JPEG."""
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "JPEG", quality=quality)
    return data.getvalue()


def catalogue_photo(looks: Looks, item: int, size: int, seed: int) -> np.ndarray:
    """The shop's photo of an item, (size, size, 3) uint8."""
    assert looks.style is not None
    image = _scene(looks, item, size, float(looks.style.clutter[item]), np.random.default_rng([seed, 2, item]))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def query_photo(looks: Looks, item: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A user's photo of an item, (size, size, 3) uint8: another background and angle, cropped, colour-cast, noisy."""
    return snapshot(_scene(looks, item, size, rng.random(), rng), rng)


def before_another_background(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What `mask` (H, W) shows of a photo (H, W, 3), before a room; around [0, 1]."""
    axis = ((np.arange(len(photo)) + 0.5) / len(photo) * 2 - 1).astype(np.float32)
    room = _background(*np.meshgrid(axis, axis), rng.random(), rng)
    return np.where(mask[:, :, None], photo, room)


def snapshot(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scene (size, size, 3) as a telephone sees it, uint8: cropped, colour-cast, noisy."""
    size = len(image)
    keep = round(size * rng.uniform(0.7, 0.95))
    top, left = rng.integers(0, size - keep + 1, 2)
    cropped = (np.clip(image[top : top + keep, left : left + keep], 0, 1) * 255).astype(np.uint8)
    view = np.asarray(Image.fromarray(cropped).resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
    cast = (rng.uniform(0.85, 1.1, 3) * rng.uniform(0.8, 1.1)).astype(np.float32)
    view = view * cast + 0.03 * rng.standard_normal(view.shape, np.float32)
    return (np.clip(view, 0, 1) * 255).astype(np.uint8)


def _scene(looks: Looks, item: int, size: int, clutter: float, rng: np.random.Generator) -> np.ndarray:
    """A product before a background, (size, size, 3) around [0, 1]; position and angle vary a little."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    right, down = rng.uniform(-0.06, 0.06, 2).tolist()
    angle = rng.uniform(-0.12, 0.12)
    sine, cosine = math.sin(angle), math.cos(angle)
    x0, y0 = np.meshgrid(axis - right, axis - down)
    x, y = x0 * cosine - y0 * sine, x0 * sine + y0 * cosine
    canvas = _background(x0, y0, clutter, rng)
    assert looks.style is not None
    category, roundness = CATEGORIES[looks.category[item]], float(looks.style.roundness[item])
    mask = np.clip(_silhouette(category, x, y, roundness) * size / 4, 0, 1)[:, :, None]
    shadow = np.clip(_silhouette(category, x - 0.06, y - 0.08, roundness) * 6, 0, 1)[:, :, None]
    surface = _surface(looks.style, item, x, y, rng)
    if category == "watch":
        surface = _watch_face(surface, x, y)
    return canvas * (1 - 0.25 * shadow) * (1 - mask) + surface * mask


def _surface(style: Style, item: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    light = 0.35 + 0.5 * float(style.light[item])
    ground = hsv(float(style.hue[item]), 0.75, light)
    mark = hsv(float(style.hue[item]) + 0.08, 0.35, min(1.0, light + 0.35) if light < 0.6 else light - 0.4)
    pattern = _pattern(PATTERNS[style.pattern[item]], x, y)[:, :, None]
    colour = ground * (1 - pattern) + mark * pattern
    shade = 1.0 - 0.25 * np.clip(x * 0.8 + y * 0.4, -1, 1)
    noise = rng.standard_normal(x.shape, np.float32)
    noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return colour * (shade * (1 + 0.35 * float(style.grain[item]) * noise))[:, :, None]


def _watch_face(surface: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A pale dial with two hands on top of the surface."""
    dial = np.clip((0.26 - np.hypot(x, y)) * 40, 0, 1)[:, :, None]
    hands = np.maximum(_box(x - 0.08, y, 0.09, 0.02, 0.02), _box(x + 0.07, y + 0.07, 0.02, 0.1, 0.02))
    ink = np.clip(hands * 60, 0, 1)[:, :, None]
    return surface * (1 - dial) + dial * (0.95 - 0.8 * ink)


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
    canvas = np.ones((*x.shape, 3), np.float32) * (0.97 - 0.12 * clutter * (y[:, :, None] > 0.55).astype(np.float32))
    for _ in range(round(clutter * 9)):
        cx, cy = rng.uniform(-1, 1, 2).tolist()
        wide, high = rng.uniform(0.1, 0.35, 2).tolist()
        colour = hsv(rng.random(), 0.25 + 0.3 * rng.random(), 0.6 + 0.35 * rng.random())
        rows = slice(*_within(y[:, 0], cy, high))
        columns = slice(*_within(x[0], cx, wide))
        canvas[rows, columns] = 0.35 * canvas[rows, columns] + 0.65 * colour
    return canvas


def _within(axis: np.ndarray, centre: float, reach: float) -> tuple[int, int]:
    """First and last + 1 place of an ascending axis that lies within `reach` of the centre."""
    return int(np.searchsorted(axis, centre - reach, "right")), int(np.searchsorted(axis, centre + reach, "left"))


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
        dial = _box(x, y, 0.42, 0.42, 0.06 + 0.36 * r)
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
    return (value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)
