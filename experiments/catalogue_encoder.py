"""An encoder as the ranker takes it in end_to_end mode: item numbers in, vectors out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from data.config import parse_config
from data.dataset import Dataset
from data.errors import InputError
from features.vector_source import VectorSource
from moon_encoder.checkpoint import EncoderInfo, encoder_info, load_encoder, save_encoder
from moon_encoder.content import Content
from moon_encoder.embed_job import encoder_name
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.frozen_cache import RowCache, item_pictures, item_texts
from moon_encoder.items import Items, readable
from moon_encoder.trained_on import catalogue_columns

KEPT_BYTES = 2 << 30  # of what the frozen part made of contents; past that it is computed again each time
CHUNK = 64  # contents that run through the frozen part at once
STAGE = "end-to-end"


class CatalogueEncoder(nn.Module):
    """`items (n,) int64 -> vectors (n, D)`, with gradient to the encoder's trained weights.

    What no trained weight changes is computed once an item and kept: in memory, and in a folder that runs share.
    """

    def __init__(self, encoder: Encoder, items: Items, info: EncoderInfo, texts: RowCache | None = None) -> None:
        """texts: what the frozen part makes of the items' texts, as `items` may have it of their pictures."""
        super().__init__()
        self.encoder, self.items, self.info, self._texts = encoder, items, info, texts
        self._frozen_texts = encoder.frozen_texts(["a"]) is not None
        self._kept: dict[int, Content] = {}
        self._kept_bytes = 0

    @classmethod
    def open(
        cls, folder: Path, source: VectorSource, dataset: Dataset, cache: Path | None = None
    ) -> "CatalogueEncoder":
        """The saved encoder in `folder`, on what was embedded of an item into the store of `source`.

        `cache`: folder for what its frozen part makes of items; None: every run computes it again.

        Raises InputError for an encoder that is damaged, has no such width or reads no such content.
        """
        encoder, info, meta = load_encoder(folder), encoder_info(folder), source.version.meta
        allowed = (*encoder.matryoshka, encoder.dim)
        if source.dim not in allowed:
            raise InputError(
                f"--encoder {folder}: has prefixes of {', '.join(map(str, allowed))}; features.vectors "
                f"{source.spec.name!r} has {source.dim} dimensions"
            )
        columns = catalogue_columns(info)
        if "columns" in meta:
            columns = parse_config(meta["columns"], Catalogue, f"{source.root}: columns")
        contents, form = Contents.of(dataset, columns), readable(meta.get("content"), encoder)
        if cache is None:
            return cls(encoder, Items(contents, form), info)
        pictures, texts = item_pictures(encoder, contents, cache), item_texts(encoder, contents, form, cache)
        return cls(encoder, Items(contents, form, pictures), info, texts)

    def save(self, folder: Path) -> str:
        """Write the encoder as it is now; returns what a store that it fills calls it."""
        facts = self.info.facts | {"started_from": self.info.fingerprint}
        return encoder_name(save_encoder(self.encoder, folder, self.info.name, STAGE, facts))

    def forward(self, items: Tensor) -> Tensor:
        """Items (n,) -> vectors (n, D) float32, not normalised."""
        inputs = self.encoder.prepare(self._contents(items.tolist()))
        return self.encoder(inputs.to(self.encoder.device))

    def _contents(self, items: list[int]) -> list[Content]:
        """What is shown of the items, the frozen part already computed."""
        found = {item: self._kept[item] for item in items if item in self._kept}
        missing = [item for item in dict.fromkeys(items) if item not in found]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            self.items.compute(np.array(part))
            made = self._half_way(part, [self._load(item) for item in part])
            found |= dict(zip(part, made, strict=True))
            for item, content in zip(part, made, strict=True):
                self._keep(item, content)
        return [found[item] for item in items]

    def _load(self, item: int) -> Content:
        content, problems = self.items(item)
        if content is None:
            raise InputError(f"item {item}: has a vector in the store, and {problems[0].reason} to encode")
        return content

    def _half_way(self, items: Sequence[int], contents: Sequence[Content]) -> list[Content]:
        """Contents of the items, with what the frozen part makes of their pictures and texts in place of those."""
        images = {i: c.image for i, c in zip(items, contents, strict=True) if c.image is not None}
        texts = {i: c.text for i, c in zip(items, contents, strict=True) if c.text is not None}
        pictures = [image for image in images.values() if isinstance(image, Image.Image)]
        if pictures and (found := self.encoder.frozen_images(pictures)) is not None:
            images = dict(zip(images, found, strict=True))
        if texts and (found := self._of_texts(texts)) is not None:
            texts = dict(zip(texts, found, strict=True))
        return [Content(texts.get(item), images.get(item)) for item in items]

    def _of_texts(self, texts: dict[int, Any]) -> np.ndarray | None:
        """What a frozen text part makes of texts by item, (n, D)."""
        if self._texts is not None:
            return self._texts(np.array(list(texts)))
        return self.encoder.frozen_texts(list(texts.values())) if self._frozen_texts else None

    def _keep(self, item: int, content: Content) -> None:
        """Remember a content whose parts are computed, as long as there is room."""
        size = sum(part.nbytes for part in (content.image, content.text) if isinstance(part, np.ndarray))
        if size and self._kept_bytes + size <= KEPT_BYTES:
            self._kept[item] = content
            self._kept_bytes += size
