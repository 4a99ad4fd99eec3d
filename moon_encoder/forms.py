"""In which form a query or an item is shown to the encoder, and the contents made of a dataset in that form.

text           what was typed (a product as a query: its title)
image          the picture
title, rich    the title; the title with further catalogue columns behind it
title+image, rich+image
"""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from PIL import Image
from pydantic import Field

from data.config import Config
from data.dataset import Dataset
from data.errors import InputError
from data.images import ImageSource, check_image, load_image_noted, open_images

Form = Literal["text", "image", "title", "rich", "title+image", "rich+image"]
QUERY_ROLE = "query"


class Catalogue(Config):
    """How the catalogue's columns become the text of an item."""

    title: str = Field("title", description="column of the title")
    rich: tuple[str, ...] = Field(("category",), description="columns that a rich text has behind the title")
    category: str = Field("category", description="column of the category")
    product: str | None = Field(None, description="column of the product (SPU) that several items (SKUs) belong to")
    image: str = Field("image_key", description="column of the picture's key")


@dataclass
class Contents:
    """Texts and pictures of a dataset's items and queries.

    Attributes:
        titles, rich: (items,) texts, "" where there is none.
        image_keys: (items,) keys, "" where there is no picture (or it is not in the stores).
        category, product: (items,) int64 codes from 0, -1 where unknown.
        category_names: by code.
        unreadable_queries: keys of pictures that were searched with and left out.
    """

    dataset: Dataset
    columns: Catalogue
    titles: np.ndarray
    rich: np.ndarray
    image_keys: np.ndarray
    category: np.ndarray
    category_names: list[str]
    product: np.ndarray
    unreadable_queries: set[str] = field(default_factory=set)
    _item_images: list[ImageSource] = field(default_factory=list)
    _query_images: list[ImageSource] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._named_images: list[str] = self.image_keys.tolist()  # whatever is left out later

    @classmethod
    def of(cls, dataset: Dataset, columns: Catalogue) -> "Contents":
        """Read the catalogue and open the image stores.

        Raises InputError for a column or a store that is not there.
        """
        items = dataset.items().collect()
        wanted = {columns.title, *columns.rich, columns.category, columns.image, *filter(None, [columns.product])}
        optional = {columns.title, columns.category, columns.image} - set(columns.rich)
        if missing := sorted(wanted - set(items.columns) - optional):
            raise InputError(
                f"{dataset.root}: the catalogue has no column {missing[0]!r}; it has {', '.join(items.columns)}"
            )
        stores = {QUERY_ROLE: [], "item": []}
        for store in dataset.meta["images"]:
            role = QUERY_ROLE if store["role"] == QUERY_ROLE else "item"
            stores[role].append(open_images(store))
        category, names = _codes(items, columns.category)
        keys = _texts(items, columns.image)
        known = np.array([any(key in store for store in stores["item"]) for key in keys], dtype=bool)
        keys[~known] = ""
        return cls(
            dataset,
            columns,
            _texts(items, columns.title),
            _joined(items, (columns.title, *columns.rich)),
            keys,
            category,
            names,
            _codes(items, columns.product)[0],
            _item_images=stores["item"],
            _query_images=stores[QUERY_ROLE],
        )

    def __len__(self) -> int:
        return len(self.titles)

    def has(self, form: Form) -> np.ndarray:
        """(items,) bool: items that have everything the form shows."""
        found = np.ones(len(self), dtype=bool)
        if "image" in form:
            found &= self.image_keys != ""
        if form != "image":
            found &= self.item_texts(form) != ""
        return found

    def item_texts(self, form: Form) -> np.ndarray:
        """(items,) texts of items in a form that has one."""
        return self.rich if form.startswith("rich") else self.titles

    def texts_of(self, rows: np.ndarray) -> list[str]:
        """Titles and rich texts of the items `rows` that have them."""
        return [text for text in (*self.titles[rows].tolist(), *self.rich[rows].tolist()) if text]

    def item_image(self, item: int) -> Image.Image:
        """The item's picture. Raises InputError if it cannot be read."""
        return self.item_image_noted(item)[0]

    def item_image_noted(self, item: int) -> tuple[Image.Image, str | None]:
        """The same, and what was lost on the way to RGB, or None."""
        return _load(self._item_images, self.image_keys[item])

    @cached_property
    def query_names(self) -> list[str]:
        """Keys of all pictures that one can search with, sorted."""
        return sorted({key for keys in (store.keys() for store in self._query_images) for key in keys})

    def check_image(self, of: int | str) -> None:
        """Raise InputError if the picture of an item (by index) or a query (by key) cannot be read."""
        stores = self._item_images if isinstance(of, int) else self._query_images
        key = self.image_keys[of] if isinstance(of, int) else of
        check_image(_holder(stores, key), key)

    def leave_out_image(self, of: int | str) -> None:
        """From now on the item has no picture, or nobody has searched with the query's."""
        if isinstance(of, int):
            self.image_keys[of] = ""
        else:
            self.unreadable_queries.add(of)

    def query_keys(self) -> dict[str, int]:
        """Number of each picture that one can search with."""
        return {key: row for row, key in enumerate(self.query_names)}

    def images_digest(self, role: str) -> str:
        """Stands for the items' or queries' pictures: their stores' files, times, and keys."""
        stores = self._query_images if role == QUERY_ROLE else self._item_images
        keys = self.query_names if role == QUERY_ROLE else self._named_images
        found = hashlib.sha256("\0".join(keys).encode())
        for store in stores:
            facts = os.stat(store.name)
            found.update(f"{store.name} {facts.st_size} {facts.st_mtime_ns}".encode())
        return found.hexdigest()

    def query_image(self, key: str) -> Image.Image:
        """The picture of a search. Raises InputError if it cannot be read."""
        return _load(self._query_images or self._item_images, key)[0]


def shows_text(form: Form) -> bool:
    """Whether the form shows a text."""
    return form != "image"


def shows_image(form: Form) -> bool:
    """Whether the form shows a picture."""
    return "image" in form


def _load(stores: list[ImageSource], key: str) -> tuple[Image.Image, str | None]:
    return load_image_noted(_holder(stores, key), key)


def _holder(stores: list[ImageSource], key: str) -> ImageSource:
    for store in stores:
        if key in store:
            return store
    names = ", ".join(store.name for store in stores) or "none"
    raise InputError(f"no image {key!r} in the dataset's image stores ({names})")


def _texts(items: pl.DataFrame, column: str) -> np.ndarray:
    if column not in items.columns:
        return np.full(len(items), "", dtype=object)
    return np.array([(text or "").strip() for text in items[column].cast(pl.String)], dtype=object)


def _joined(items: pl.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    parts: list[list[Any]] = []
    for column in columns:
        values = items[column] if column in items.columns else pl.Series([None] * len(items), dtype=pl.String)
        if isinstance(values.dtype, pl.List):
            values = values.list.eval(pl.element().cast(pl.String)).list.join(" ")
        parts.append(values.cast(pl.String).to_list())
    return np.array([", ".join(t.strip() for t in row if t and t.strip()) for row in zip(*parts, strict=True)], object)


def _codes(items: pl.DataFrame, column: str | None) -> tuple[np.ndarray, list[str]]:
    """Codes (items,) int64 of a column, in order of its values, -1 for null; and the values as text."""
    if column is None or column not in items.columns:
        return np.full(len(items), -1, dtype=np.int64), []
    values = items[column].cast(pl.String)
    names = sorted(values.drop_nulls().unique())
    codes = values.replace_strict({name: i for i, name in enumerate(names)}, default=-1, return_dtype=pl.Int64)
    return codes.to_numpy().copy(), names
