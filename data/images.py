"""Product images from a folder, a tar or a parquet column: one interface, random access, clear errors."""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from data.config import Config
from data.errors import InputError
from data.source import one_line, read_parquet

MAX_PIXELS = 64_000_000


class ImageStore(Config):
    """Where images lie: a `dir` of files, a `tar`, or `parquet` with a key column and a column of encoded bytes."""

    kind: Literal["dir", "tar", "parquet"] = Field(description="what the path is")
    path: str = Field(description="folder or file")
    key: str = Field("image_key", description="parquet: column of keys")
    image: str = Field("image", description="parquet: column of JPEG/PNG/... bytes")
    role: str = Field("item", description="what the images show, e.g. item or query")


class ImageSource(Protocol):
    """Encoded images by key (file name relative to the folder or tar; the key column's value)."""

    name: str

    def keys(self) -> Iterable[str]: ...

    def __contains__(self, key: object) -> bool: ...

    def read(self, key: str) -> bytes: ...


def open_images(spec: ImageStore | dict[str, Any]) -> ImageSource:
    """Open one image store.

    Raises InputError if it is not there or is damaged.
    """
    store = spec if isinstance(spec, ImageStore) else ImageStore.model_validate(spec)
    path = Path(store.path)
    if store.kind == "dir":
        return FolderImages(path)
    if store.kind == "tar":
        return TarImages(path)
    return ParquetImages(path, store.key, store.image)


def load_image(source: ImageSource, key: str) -> Image.Image:
    """The decoded image as RGB (first frame; CMYK, palette, 16-bit and alpha converted, transparency on white).

    Raises InputError naming store and key if it is absent, empty, corrupt, or larger than MAX_PIXELS.
    """
    return load_image_noted(source, key)[0]


def load_image_noted(source: ImageSource, key: str) -> tuple[Image.Image, str | None]:
    """As `load_image`, and what was lost on the way to RGB, or None."""
    with _opened(source, key) as image:
        image.load()
        return _rgb(image)


def check_image(source: ImageSource, key: str) -> None:
    """Raise InputError if `load_image` would; a JPEG is decoded at an eighth of its size, which takes a fraction."""
    with _opened(source, key) as image:
        image.draft("RGB", (1, 1))
        image.load()


@contextmanager
def _opened(source: ImageSource, key: str) -> Iterator[Image.Image]:
    """The picture before it is decoded; whatever is wrong with it is an InputError."""
    data = source.read(key)
    where = f"{source.name}: image {key!r}"
    if not data:
        raise InputError(f"{where} is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{where} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        unknown = isinstance(error, UnidentifiedImageError)  # whose text names an object in memory
        reason = "cannot identify image" if unknown else one_line(error)
        raise InputError(f"{where} is corrupt: {reason}") from None


def _rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if image.mode.startswith("I"):
        notes.append("16 bits a channel reduced to 8")
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            notes.append("transparency laid on white")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    elif image.mode not in ("RGB", "L", "P", "1"):
        notes.append(f"{image.mode} converted to RGB")
    return image.convert("RGB"), ", ".join(notes) or None


def _absent(name: str, key: str) -> InputError:
    return InputError(f"{name}: no image {key!r}")


class FolderImages:
    """Image files below a folder; keys are paths relative to it."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder of images")
        self.root, self.name = root.resolve(), str(root)

    def keys(self) -> Iterator[str]:
        """All files, in no particular order."""
        for folder, _, files in os.walk(self.root):
            yield from (str((Path(folder) / name).relative_to(self.root)) for name in files)

    def __contains__(self, key: object) -> bool:
        path = self._path(key) if isinstance(key, str) else None
        return path is not None and os.path.isfile(path)

    def read(self, key: str) -> bytes:
        """Encoded bytes; raises InputError if there is no such file inside the folder."""
        path = self._path(key)
        if path is None:
            raise _absent(self.name, key)
        try:
            return path.read_bytes()
        except OSError:
            raise _absent(self.name, key) from None

    def _path(self, key: str) -> Path | None:
        """The key's file, or None for a key that names no place inside the folder (links in it may lead out)."""
        path = Path(os.path.normpath(self.root / key))
        return path if path.is_relative_to(self.root) and "\0" not in key else None


class TarImages:
    """Images inside an uncompressed tar, read in place by offset (thread-safe); nothing is unpacked."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            with tarfile.open(path, "r:") as tar:
                members = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in tar if m.isfile()]
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise InputError(f"{path}: no such tar of images") from None
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{path}: not a readable uncompressed tar: {one_line(error)}") from None
        self._places = {name: (offset, size) for name, offset, size in members}

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def keys(self) -> Iterable[str]:
        """Member names, in the tar's order."""
        return self._places.keys()

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def read(self, key: str) -> bytes:
        """Encoded bytes of a member."""
        if key not in self._places:
            raise _absent(self.name, key)
        offset, size = self._places[key]
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise InputError(f"{self.name}: image {key!r} is cut off; the tar is truncated")
        return data


class ParquetImages:
    """A parquet file with a key column and a column of encoded bytes; rows are read one group at a time."""

    def __init__(self, path: Path, key: str, image: str) -> None:
        self.name, self._path, self._key, self._image = str(path), path, key, image
        keys = read_parquet(path, [key, image], select=[key])[key].cast(pl.String)
        self._rows = {name: row for row, name in enumerate(keys) if name is not None}
        self._lazy = pl.scan_parquet(path).select(pl.col(image).cast(pl.Binary))

    def keys(self) -> Iterable[str]:
        """Keys, in row order."""
        return self._rows.keys()

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def read(self, key: str) -> bytes:
        """Encoded bytes of a row."""
        if key not in self._rows:
            raise _absent(self.name, key)
        return self._lazy.slice(self._rows[key], 1).collect().item() or b""
