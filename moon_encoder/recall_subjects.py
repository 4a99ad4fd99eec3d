"""Whose vectors are judged: an encoder, which makes them now, or a store, which has those of the items."""

from pathlib import Path

import numpy as np

from data.errors import InputError
from data.progress import Progress
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store, version_numbers
from moon_encoder.checkpoint import EncoderInfo, encoder_info, load_encoder
from moon_encoder.embed_job import encoder_name
from moon_encoder.embed_parts import device
from moon_encoder.embedding import BATCH, Load, Problem, checked_dim, embed
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Contents, Form
from moon_encoder.items import Items, readable
from moon_encoder.search import Held, Picked, Stored, Vectors


class Subject:
    """An encoder, or a store with the encoder that it says it was made by.

    Attributes:
        name: for people.
        info: the encoder; None for a store whose encoder is not there (then it has no vectors of queries).
    """

    def __init__(self, path: Path, contents: Contents, content: Form | None, dim: int | None) -> None:
        """Raises InputError if `path` is neither, or the store is of other items or has no prefix of `dim`."""
        self.contents, self.dim = contents, dim
        self.content: Form | None  # None: a store that does not say
        self.version = Store(path).current if version_numbers(path) else None
        self.encoder: Encoder | None = None
        self.info: EncoderInfo | None = None
        self.missing = ""
        folder = path
        if self.version is not None:
            self.name = f"{path.name} v{self.version.number} ({self.version.meta['encoder']})"
            folder = Path(self.version.meta.get("encoder_path", ""))
            self.dim = self._prefix(dim)
        if self.version is None or self._made_by(folder):
            self.info, self.encoder = encoder_info(folder), load_encoder(folder, device())
        if self.version is None:
            assert self.info is not None and self.encoder is not None
            self.name, self.dim = encoder_name(self.info), checked_dim(self.encoder, dim)
            self.content = readable(content, self.encoder)
        else:
            self.content = self.version.meta.get("content")
            if content is not None and content != self.content:
                raise InputError(f"--content {content}: the store {path} shows items as {self.content}")
        self._made: dict[Form, Held] = {}

    def _prefix(self, dim: int | None) -> int | None:
        assert self.version is not None
        allowed = sorted({*self.version.meta["matryoshka"], self.version.meta["dim"]})
        if dim is not None and dim not in allowed:
            raise InputError(f"--dim {dim}: the store has prefixes of {', '.join(map(str, allowed))}")
        return dim or self.version.meta["dim"]

    def _made_by(self, folder: Path) -> bool:
        """Whether the folder holds the encoder of the store."""
        assert self.version is not None
        wanted = self.version.meta["encoder"]
        if not (folder / "encoder.json").is_file():
            self.missing = f"the store's encoder is not at {folder or 'a place it knows'} any more"
        elif encoder_name(encoder_info(folder)) != wanted:
            self.missing = f"{folder} holds another encoder by now than {wanted}"
        return not self.missing

    def lacks(self, form: Form | None, asks: str | None) -> str | None:
        """Why it has no vectors of items in a form (None: its own) or of queries that show `asks`; None if it has."""
        if self.version is not None and form is not None and form != self.content:
            return f"the store shows items as {self.content}, not as {form}"
        if asks is not None and self.encoder is None:
            return self.missing
        shown = "image" if form == "image" else "text"
        for need in filter(None, [asks, shown if form and self.version is None else None]):
            if self.encoder is not None and need not in self.encoder.reads:
                return f"the encoder reads no {need}s"
        return None

    def items(self, form: Form | None) -> Vectors:
        """Vectors of all items in a form, by item index."""
        if self.version is not None:
            return self._stored()
        form = form or self.content
        assert form is not None, "an encoder's own form is known"
        if form not in self._made:
            items = Items(self.contents, form)
            there = np.flatnonzero(self.contents.has(form)) if "+" not in form else np.arange(len(items))
            vectors, present, _ = self._embed(f"items ({form})", items, there)
            whole, mask = np.zeros((len(items), vectors.shape[1]), np.float32), np.zeros(len(items), bool)
            whole[there], mask[there] = vectors, present
            self._made[form] = Held(whole, mask)
        return self._made[form]

    def _stored(self) -> Vectors:
        """The store's rows in the order of the dataset's items."""
        assert self.version is not None
        stored, dataset = Stored(self.version, self.dim), self.contents.dataset
        if self.version.meta["dataset_fingerprint"] == dataset.fingerprint:
            return Picked(stored, np.arange(len(self.contents)))
        rows = ItemRows(self.version).find(dataset.items().select("item_id").collect()["item_id"])
        if (rows == UNKNOWN).all():
            raise InputError(f"{self.name}: the store has none of the items of {dataset.root}")
        picked = Picked(stored, np.maximum(rows, 0))
        picked.present = picked.present & (rows != UNKNOWN)
        return picked

    def queries(self, load: Load, count: int) -> tuple[Held, list[Problem]]:
        """Vectors of queries, and what was wrong with some."""
        vectors, present, problems = self._embed("queries", load, np.arange(count))
        return Held(vectors, present), problems

    def _embed(self, what: str, load: Load, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        assert self.encoder is not None
        progress = Progress(f"{self.name}: {what}", len(rows), what.split()[0])
        found = embed(self.encoder, load, rows, self.dim, BATCH, progress=progress.add)
        progress.close()
        return found
