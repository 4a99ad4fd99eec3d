"""What an encoder's frozen part makes of pictures and texts, kept on disk and in memory, so that it is computed once.

    ROOT/NAME-DIGEST/{values.npy (contents, ...) float16, done.npy (contents,) bool}

The digest covers the frozen weights, the contents and the view, so that runs, stages, embeddings and rankers that train
an encoder share the files of one frozen part; rows are filled when they are first asked for, by any number of
processes. float16 keeps three digits of activations, which is what is stored.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from moon_encoder.encoder import Encoder
from moon_encoder.forms import Contents, Form

CHUNK = 64  # contents run through the frozen part at once


class RowCache:
    """What the frozen part makes of a numbered set of contents: one view of pictures, or texts."""

    def __init__(self, folder: Path, size: int, make: Callable[[list[int]], np.ndarray | None]) -> None:
        """size: contents in the set. make: numbers (n) -> what the frozen part makes of them, (n, ...).

        `folder`: of this very frozen part, set and view.
        """
        self.folder, self.size, self.make = folder, size, make
        self._values: np.ndarray | None = None
        self._done: np.ndarray | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n,) numbers -> (n, ...) float16."""
        if self._done is None and (self.folder / "done.npy").is_file():
            self._open()
        missing = np.unique(rows if self._done is None else rows[~self._done[rows]])
        for at in range(0, len(missing), CHUNK):
            part = missing[at : at + CHUNK]
            found = self.make(part.tolist())
            assert found is not None, "this encoder has no frozen part to cache"
            if self._done is None:
                self._create(found.shape[1:])
            assert self._values is not None and self._done is not None
            self._values[part] = found
            self._done[part] = True
        assert self._values is not None
        return self._values[rows]

    def _create(self, shape: tuple[int, ...]) -> None:
        """Make the files, if no other process has made them; `done` comes last, by rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name, full, kind in (("values", (self.size, *shape), np.float16), ("done", (self.size,), np.bool_)):
                if not (self.folder / f"{name}.npy").is_file():
                    part = self.folder / f".{name}.npy"
                    np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=full).flush()
                    os.replace(part, self.folder / f"{name}.npy")
        self._open()

    def _open(self) -> None:
        self._values, self._done = (np.load(self.folder / f"{n}.npy", mmap_mode="r+") for n in ("values", "done"))


class TextCache:
    """Vectors of texts that have been seen, in memory."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Texts (n) -> n vectors (D,) float16."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for at in range(0, len(missing), CHUNK):
            part = missing[at : at + CHUNK]
            found = self.encoder.frozen_texts(part)
            assert found is not None, "this encoder has no frozen text part to cache"
            self._known |= dict(zip(part, found.astype(np.float16), strict=True))
        return [self._known[text] for text in texts]


def item_pictures(encoder: Encoder, contents: Contents, root: Path) -> RowCache | None:
    """The items' pictures as they are, by item; None where no part of the encoder's way from a picture is frozen."""
    frozen = encoder.frozen_digest()
    if not frozen:
        return None
    folder = root / f"item-{digest(frozen, contents.images_digest('item'), 'plain')}"
    return RowCache(
        folder, len(contents), lambda items: encoder.frozen_images([contents.item_image(item) for item in items])
    )


def item_texts(encoder: Encoder, contents: Contents, form: Form, root: Path) -> RowCache | None:
    """The items' texts in a form, by item; None where the encoder's text part is trained or it has none."""
    frozen = encoder.frozen_text_digest()
    if not frozen:
        return None
    texts = contents.item_texts(form)
    folder = root / f"text-{digest(frozen, *texts.tolist())}"
    return RowCache(folder, len(contents), lambda items: encoder.frozen_texts(texts[items].tolist()))


def digest(*parts: str) -> str:
    """Sixteen characters that stand for the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
