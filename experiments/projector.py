"""A store's vectors for TensorBoard's embedding projector: what stands near what, in three dimensions, with pictures.

DIR/projector_config.pbtxt, tensors.tsv, metadata.tsv, sprite.png     tensorboard --logdir DIR
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_text
from data.images import ImageSource, load_image, open_images
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store

MOST, SIDE = 5000, 48  # items, pixels of a picture; TensorBoard reads sprites of up to 8,192 pixels a side


def write_projector(store: Path, data: Path, out: Path, seed: int = 0) -> int:
    """Write at most MOST items that have a vector (drawn by seed); returns how many.

    Raises InputError if the store has no vector of the dataset's items.
    """
    version, dataset = Store(store).current, Dataset(data)
    items = dataset.items().collect()
    if version.meta["dataset_fingerprint"] == dataset.fingerprint:
        rows = np.arange(len(items))
    else:
        rows = ItemRows(version).find(items["item_id"])
    there = np.flatnonzero(rows != UNKNOWN)
    vectors, present = version.vectors(rows[there])
    there, vectors = there[present], vectors[present]
    if not len(there):
        raise InputError(f"{store}: has no vector of the items of {data}")
    kept = np.sort(np.random.default_rng(seed).permutation(len(there))[:MOST])
    there, vectors = there[kept], vectors[kept]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "tensors.tsv", "".join("\t".join(f"{v:.6g}" for v in row) + "\n" for row in vectors.tolist()))
    columns = [name for name in ("title", "category", "item_id") if name in items.columns]
    words = [[_word(items[name][int(i)]) for name in columns] for i in there]
    head = ["\t".join(columns)] if len(columns) > 1 else []  # TensorBoard wants a head for several columns only
    write_text(out / "metadata.tsv", "\n".join([*head, *("\t".join(row) for row in words)]) + "\n")
    sprite = _sprite(dataset, items["image_key"].to_list() if "image_key" in items.columns else [], there)
    if sprite is not None:
        part = out / f".sprite.{os.getpid()}.png"
        sprite.save(part)
        os.replace(part, out / "sprite.png")
    picture = f'  sprite {{ image_path: "sprite.png" single_image_dim: {SIDE} single_image_dim: {SIDE} }}\n'
    config = (
        f'embeddings {{\n  tensor_name: "{store.name}"\n  tensor_path: "tensors.tsv"\n  metadata_path: "metadata.tsv"\n'
        f"{picture if sprite is not None else ''}}}\n"
    )
    write_text(out / "projector_config.pbtxt", config)
    return len(there)


def _word(value: object) -> str:
    return " ".join(str("" if value is None else value).split()) or "-"


def _sprite(dataset: Dataset, keys: list[str | None], items: np.ndarray) -> Image.Image | None:
    """The pictures in a square, row by row; grey where there is none. None: the dataset has no pictures."""
    stores = [open_images(store) for store in dataset.meta["images"] if store["role"] == "item"]
    if not stores or not keys:
        return None
    across = int(np.ceil(np.sqrt(len(items))))
    sheet = Image.new("RGB", (across * SIDE, across * SIDE), "#888888")
    for place, item in enumerate(items):
        image = _picture(stores, keys[int(item)])
        if image is not None:
            image.thumbnail((SIDE, SIDE))
            x, y = place % across * SIDE, place // across * SIDE
            sheet.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
    return sheet


def _picture(stores: list[ImageSource], key: str | None) -> Image.Image | None:
    source = next((store for store in stores if key in store), None)
    if source is None or key is None:
        return None
    try:
        return load_image(source, key)
    except InputError:
        return None  # the store's problems.parquet names it
