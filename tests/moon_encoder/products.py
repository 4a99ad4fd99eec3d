"""A catalogue of drawn products, small enough to learn in seconds, and the recipe that pretrains on it."""

import io
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from data.prepare import prepare
from data.sources.fashion_products import FashionProducts
from tests.moon_encoder.conftest import mllm_config

COLOURS = {"Red": (220, 30, 30), "Blue": (30, 60, 220), "Green": (30, 170, 60), "Yellow": (235, 215, 40)}
TYPES = ("Shirts", "Watches", "Shoes")
BROKEN, CUT_OFF, EMPTY_TITLE, LONG_TITLE = 3, 4, 5, 6


def drawing(colour: str, kind: str, seed: int, side: int = 32) -> Image.Image:
    """A square, a disc or a bar of a colour on white, a little moved."""
    image = Image.new("RGB", (side, side), "white")
    x, y = np.random.default_rng(seed).integers(2, 7, 2).tolist()
    draw = ImageDraw.Draw(image)
    if kind == "Shirts":
        draw.rectangle((x, y, x + 20, y + 20), COLOURS[colour])
    elif kind == "Watches":
        draw.ellipse((x, y, x + 20, y + 20), COLOURS[colour])
    else:
        draw.rectangle((x - 2, y + 8, x + 24, y + 14), COLOURS[colour])
    return image


def write_products(root: Path, items: int = 240, seed: int = 0, faulty: bool = False) -> Path:
    """The raw files of `fashion_products` with drawn products, each title shared by two. `faulty`: items BROKEN (no
    picture file), CUT_OFF, EMPTY_TITLE and LONG_TITLE (10,000 characters)."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    colours, kinds = rng.choice(list(COLOURS), items), rng.choice(TYPES, items)
    genders = rng.choice(["Men", "Women"], items)
    titles = [f"{genders[i]} {colours[i]} {kinds[i]} no {i // 2}" for i in range(items)]
    with tarfile.open(root / "images.tar", "w") as tar:
        for i in range(items):
            data = io.BytesIO()
            drawing(colours[i], kinds[i], i).save(data, "PNG")
            body = data.getvalue()
            if faulty and i == BROKEN:
                body = b""
            if faulty and i == CUT_OFF:
                body = body[:40]
            member = tarfile.TarInfo(f"{1000 + i}.jpg")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    if faulty:
        titles[EMPTY_TITLE] = " "
        titles[LONG_TITLE] = "red " * 2500
    pl.DataFrame(
        {
            "item_id": pl.Series(np.arange(1000, 1000 + items), dtype=pl.Int32),
            "title": titles,
            "gender": genders,
            "master_category": ["Apparel"] * items,
            "sub_category": kinds,
            "article_type": kinds,
            "base_colour": colours,
            "season": rng.choice(["Summer", "Winter"], items),
            "usage": [None if i % 5 == 0 else "Casual" for i in range(items)],
            "year": pl.Series([2012] * items, dtype=pl.Int16),
        }
    ).write_parquet(root / "items.parquet")
    return root


def prepare_products(folder: Path, items: int = 240, seed: int = 0, faulty: bool = False) -> Path:
    """The prepared dataset of drawn products."""
    prepare(FashionProducts(write_products(folder / "raw", items, seed, faulty)), folder / "dataset")
    return folder / "dataset"


def pretrain_recipe(**train: object) -> dict:
    """A recipe for them: seconds on one core."""
    encoder = mllm_config().model_dump(mode="json")
    encoder["scratch"] |= {"patch": 8}
    return {
        "name": "tiny",
        "encoder": encoder | {"image_pixels": 32 * 32, "max_tokens": 24},
        "held_out": {"key": "title", "valid": 0.1, "test": 0.2},
        "tasks": [
            {"name": "title", "prompts": ["What is the title?"], "answer": "{title}"},
            {"name": "colour", "prompts": ["Colour?", "What colour is it?"], "answer": "{base_colour}", "exact": True},
            {"name": "type", "prompts": ["What is it?"], "answer": "{article_type}", "exact": True},
            {"name": "usage", "prompts": ["When would one use {article_type}?"], "answer": "{usage}"},
        ],
        "train": {
            "batch_size": 16,
            "epochs": 26,
            "evals_per_epoch": 1,
            "optimizer": {"lr": 4e-3, "warmup_steps": 10, "clip_norm": 1.0},
            "log_every": 1,
            "threads": 1,
            **train,
        },
        "judged": {"valid_items": 24, "test_items": 48, "batch_size": 24, "longest": 8},
    }
