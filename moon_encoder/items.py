"""The contents of a dataset's items in one form, with what is wrong told item by item."""

from contextlib import suppress

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from moon_encoder.content import Content
from moon_encoder.embedding import Loaded, Outcome, Problem
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Contents, Form, shows_image, shows_text
from moon_encoder.frozen_cache import CHUNK, RowCache

ITEM_FORMS: tuple[Form, ...] = ("image", "title", "rich", "title+image", "rich+image")


def readable(form: Form | None, encoder: Encoder) -> Form:
    """The form, or the part of it that the encoder reads; None: title and picture.

    Raises InputError where nothing is left.
    """
    form = form or "title+image"
    left = [part for part in form.split("+") if ("image" if part == "image" else "text") in encoder.reads]
    if not left:
        raise InputError(f"content {form!r}: this encoder reads {' and '.join(encoder.reads)} only")
    return "+".join(left)  # type: ignore[return-value]


class Items:
    """Loads an item's content by its index (see moon_encoder.embedding.Load)."""

    def __init__(self, contents: Contents, form: Form, pictures: RowCache | None = None) -> None:
        """pictures: what the encoder's frozen part makes of them, shown in their place (see `compute`)."""
        self.contents, self._pictures = contents, pictures if shows_image(form) else None
        self.form: Form = form
        column = contents.columns.image
        items = contents.dataset.items()
        named = column in items.collect_schema().names()
        keys = items.select(pl.col(column).cast(pl.String)).collect()[column].to_list() if named else None
        self._keys = keys or [None] * len(contents)

    def __len__(self) -> int:
        return len(self.contents)

    def __call__(self, item: int) -> Loaded:
        text, image, faults = None, None, []
        if shows_text(self.form):
            text = self.contents.item_texts(self.form)[item] or None
            if text is None:
                faults.append(("title", "empty"))
        notes = []
        if shows_image(self.form):
            try:
                image, note = self._image(item)
                notes += [Problem(item, "image", note, "embedded")] if note else []
            except InputError as error:
                faults.append(("image", str(error)))
        there = text is not None or image is not None
        outcome: Outcome = "embedded without it" if there else "no vector"
        problems = [Problem(item, field, reason, outcome) for field, reason in faults] + notes
        return (Content(text, image) if there else None), problems

    def _image(self, item: int):
        if self._keys[item] is None:
            raise InputError("none")
        if not self.contents.image_keys[item]:
            raise InputError(f"no image {self._keys[item]!r} in the dataset's image stores")
        if self._pictures is not None:
            return self._pictures(np.array([item]))[0], None
        return self.contents.item_image_noted(item)

    def compute(self, items: np.ndarray) -> None:
        """Let the frozen part make of the pictures of items (n,) what it has not made yet, many at a time.

        A picture that cannot be read is passed over; loading its item tells why.
        """
        items = items[self.contents.image_keys[items] != ""]
        for at in range(0, len(items) if self._pictures else 0, CHUNK):
            self._compute(items[at : at + CHUNK])

    def _compute(self, items: np.ndarray) -> None:
        assert self._pictures is not None
        try:
            self._pictures(items)
        except InputError:
            for item in items:
                with suppress(InputError):
                    self._pictures(item[None])

    def text_lengths(self) -> np.ndarray:
        """(items,) int64 characters of each item's text; 0 where the form shows none."""
        if not shows_text(self.form):
            return np.zeros(len(self), np.int64)
        return np.array([len(text) for text in self.contents.item_texts(self.form)], np.int64)


def require_images(dataset: Dataset, form: Form) -> None:
    """Raise InputError if the form shows pictures only and the dataset has no image store of items."""
    if form == "image" and not any(store.get("role") != "query" for store in dataset.meta["images"]):
        raise InputError(f"{dataset.root}: the dataset names no images of items; embed --content title")
