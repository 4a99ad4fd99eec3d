"""Looks of real products: photos, titles and colours of a catalogue (items.parquet and images.tar)."""

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from data.errors import InputError
from data.images import TarImages
from data.marketplace.config import Market
from data.marketplace.looks import Looks, later_share
from data.marketplace.style import STYLE_DIM
from data.source import read_parquet

KINDS, COLOUR_WORDS = 8, 8
WHITE = 0.92  # above it in all channels a pixel is background
SIDE = 96  # pixels a side in which looks are measured


def photographed_looks(market: Market, rng: np.random.Generator) -> Looks:
    """SKUs of the KINDS commonest article types; articles of one type with one title are one product.

    A look is what the pixels say, within the category: colours, brightness, texture and outline of what stands before
    the white, as STYLE_DIM whitened principal components. Queries name one of the COLOUR_WORDS commonest colours.
    Raises InputError if the folder is no such catalogue or holds too few photos.
    """
    assert market.photos is not None
    root = Path(market.photos)
    table = read_parquet(root / "items.parquet", ["item_id", "title", "article_type", "base_colour"])
    kinds = table["article_type"].value_counts(sort=True)["article_type"].head(KINDS).sort().to_list()
    table = table.filter(pl.col("article_type").is_in(kinds) & pl.col("title").is_not_null())
    chosen, products = _chosen(table, market, rng)
    category = np.array([kinds.index(kind) for kind in chosen["article_type"]])
    files = [f"{item}.jpg" for item in chosen["item_id"]]
    tar = TarImages(root / "images.tar")
    vector = look_vectors(np.stack([measure(read_photo(tar, name, SIDE)) for name in files]), category)
    counts = table["base_colour"].drop_nulls().value_counts(sort=True)
    colours = tuple(sorted(counts["base_colour"].head(COLOUR_WORDS).to_list()))
    worn = chosen["base_colour"].to_list()
    wanted = np.zeros((len(colours), STYLE_DIM))
    for row, colour in enumerate(colours):
        with_it = np.array([name == colour for name in worn])
        mean = vector[with_it].mean(0) if with_it.any() else np.zeros(STYLE_DIM)
        wanted[row] = mean * np.sqrt(STYLE_DIM) / max(float(np.linalg.norm(mean)), 1e-9)
    title, spu = chosen["title"].to_list(), chosen["product"].to_numpy()
    shown = np.ones_like(wanted, bool)
    return Looks(products, spu, category, tuple(kinds), title, vector, None, files, colours, wanted, shown)


def _chosen(table: pl.DataFrame, market: Market, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """SKUs with their `product` numbers, ascending, and how many products the logs begin with."""
    wanted = [market.items, round(market.items * (1 + later_share(market)))]
    if len(table) < wanted[1]:
        raise InputError(f"{market.photos}: {len(table):,} photos of its {KINDS} commonest types, {wanted[1]:,} wanted")
    groups = table.group_by("article_type", "title").len().sort("article_type", "title")
    groups = groups[rng.permutation(len(groups))].with_row_index("product")
    products, total = np.searchsorted(groups["len"].cum_sum().to_numpy(), wanted) + 1
    kept = table.join(groups.head(int(total)).drop("len"), on=["article_type", "title"])
    return kept.sort("product", "item_id"), int(products)


def read_photo(tar: TarImages, name: str, side: int) -> np.ndarray:
    """(side, side, 3) float32 in [0, 1]."""
    with Image.open(io.BytesIO(tar.read(name))) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255


def foreground(photo: np.ndarray) -> np.ndarray:
    """(H, W) bool: what is not white background (everything, if that is next to nothing)."""
    mask = photo.min(2) < WHITE
    return mask if mask.mean() > 0.02 else np.ones_like(mask)


def measure(photo: np.ndarray) -> np.ndarray:
    """Colours, brightness, texture and outline of a photo, (F,); each group of numbers counts alike."""
    mask = foreground(photo)
    pixels = photo[mask]
    high, low = pixels.max(1), pixels.min(1)
    colour = np.histogramdd(pixels, bins=(4, 4, 4), range=[(0, 1)] * 3)[0].ravel() / len(pixels)
    bright = np.array([pixels.mean(), pixels.std(), (high - low).mean(), (high - low).std(), *pixels.mean(0)])
    grey = photo.mean(2)
    texture = []
    for step in (1, 3):
        for down, right in ((0, step), (step, 0), (step, step)):
            change = np.abs(grey[down:, right:] - grey[: grey.shape[0] - down, : grey.shape[1] - right])
            texture.append(np.log(1e-3 + change[mask[down:, right:]].mean()))
    rows = mask.reshape(8, len(mask) // 8, 8, -1).mean((1, 3)).ravel()
    groups = [np.sqrt(colour), bright, np.array(texture), rows]
    return np.concatenate([group / np.sqrt(len(group)) for group in groups])


def look_vectors(measured: np.ndarray, category: np.ndarray, dim: int = STYLE_DIM) -> np.ndarray:
    """(n, dim) whitened principal components of measures (n, F), centred within each category."""
    centred = measured.astype(np.float64)
    for c in np.unique(category):
        centred[category == c] -= centred[category == c].mean(0)
    centred /= centred.std(0) + 1e-6
    scores, _, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    vector = (scores * signs)[:, :dim]
    return vector / vector.std(0)
