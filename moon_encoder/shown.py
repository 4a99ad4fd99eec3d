"""From pairs to what the encoder reads: texts, pictures, their views, by way of the frozen part's cache."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from data.config import Config
from moon_encoder.augmentation import Augmentation, augmented, words_dropped
from moon_encoder.content import Content
from moon_encoder.encoder import Encoder, Inputs
from moon_encoder.forms import Contents, Form, shows_image, shows_text
from moon_encoder.frozen_cache import RowCache, TextCache, digest, item_pictures, item_texts
from moon_encoder.pairs import Pairs

PLAIN = 0  # the view that changes nothing


class Views(Config):
    """Which pairs show augmented views, and how many there are of each picture."""

    count: int = Field(4, ge=1, description="views of a picture; epoch e shows view e modulo count")
    how: Augmentation = Augmentation()  # pyright: ignore[reportCallIssue]
    query: bool = Field(False, description="queries of all pairs are shown as views (those of augmented pairs always)")
    item: bool = Field(False, description="items of all pairs are shown as views, each another one than its query's")
    words: float = Field(0.0, ge=0, lt=1, description="share of words left out of the text of a view")

    def of_epoch(self, epoch: int) -> int:
        """The queries' view in an epoch, from 1."""
        return 1 + epoch % self.count

    def other(self, view: int) -> int:
        """The items' view that goes with the queries' `view`."""
        return 1 + view % self.count if self.count > 1 else PLAIN


class Shown:
    """Makes inputs of queries and items."""

    def __init__(self, contents: Contents, encoder: Encoder, views: Views, seed: int, cache: Path | None) -> None:
        """cache: folder for what the frozen part makes of pictures and items' texts; None: it is computed again every
        time."""
        self.contents, self.encoder, self.views, self.seed, self.cache = contents, encoder, views, seed, cache
        digested = encoder.frozen_digest() if cache is not None else ""
        self._frozen = digested
        self._caches: dict[tuple[str, int], RowCache] = {}
        self._item_texts: dict[Form, RowCache | None] = {}
        self._texts = TextCache(encoder) if encoder.frozen_texts(["a"]) is not None else None
        self._query_rows = contents.query_keys()

    def queries(self, pairs: Pairs, form: Form, view: int) -> Inputs:
        """Inputs of the pairs' queries."""
        if pairs.asked_by == "item":
            return self.items(pairs.query_item, "title" if form == "text" else form, view)
        if pairs.asked_by == "text":
            return self._prepare(pairs.query.tolist(), None, len(pairs))
        rows = np.array([self._query_rows[key] for key in pairs.query.tolist()], dtype=np.int64)
        return self._prepare(None, self._images("query", rows, view), len(pairs))

    def items(self, items: np.ndarray, form: Form, view: int = PLAIN) -> Inputs:
        """Inputs of items (n,)."""
        texts = self._texts_of(items, form, view) if shows_text(form) else None
        images = self._images("item", items, view) if shows_image(form) else None
        return self._prepare(texts, images, len(items))

    def _prepare(self, texts: Sequence | None, images: Sequence | None, n: int) -> Inputs:
        """texts: strings, or what the frozen part made of them."""
        shown: Sequence = [None] * n if texts is None else texts
        if texts is not None and self._texts is not None and isinstance(texts[0], str):
            shown = self._texts(texts)
        pictures: Sequence = [None] * n if images is None else images
        return self.encoder.prepare([Content(t, i) for t, i in zip(shown, pictures, strict=True)])

    def _texts_of(self, items: np.ndarray, form: Form, view: int) -> Sequence:
        """Items' texts: as the frozen part made them where they are whole and there is a cache, else strings."""
        whole = view == PLAIN or not self.views.words
        if whole and self.cache is not None:
            if form not in self._item_texts:
                self._item_texts[form] = item_texts(self.encoder, self.contents, form, self.cache)
            if (cache := self._item_texts[form]) is not None:
                return list(cache(items))
        texts = self.contents.item_texts(form)[items].tolist()
        if whole:
            return texts
        of = zip(texts, items.tolist(), strict=True)
        return [words_dropped(text, self.views.words, self.seed, view, item) for text, item in of]

    def _images(self, role: str, rows: np.ndarray, view: int) -> Sequence:
        """Pictures by number, decoded or as the frozen part made them."""
        if not self._frozen:
            return [self._picture(role, row, view) for row in rows.tolist()]
        return list(self._cache(role, view)(rows))

    def _cache(self, role: str, view: int) -> RowCache:
        if (role, view) not in self._caches:
            self._caches[role, view] = self._opened(role, view)
        return self._caches[role, view]

    def _opened(self, role: str, view: int) -> RowCache:
        assert self.cache is not None
        if role == "item" and view == PLAIN and (plain := item_pictures(self.encoder, self.contents, self.cache)):
            return plain
        how = f"{self.seed} {view} {self.views.how.model_dump_json()}" if view != PLAIN else "plain"
        name = f"{role}-{digest(self._frozen, self.contents.images_digest(role), how)}"
        size = len(self.contents) if role == "item" else len(self._query_rows)

        def make(rows: list[int]) -> np.ndarray | None:
            return self.encoder.frozen_images([self._picture(role, row, view) for row in rows])

        return RowCache(self.cache / name, size, make)

    def _picture(self, role: str, row: int, view: int) -> Image.Image:
        if role == "item":
            image = self.contents.item_image(row)
        else:
            image = self.contents.query_image(self.contents.query_names[row])
        if view == PLAIN:
            return image
        number = row if role == "item" else len(self.contents) + row
        return augmented(image, self.views.how, self.seed, view, number)
