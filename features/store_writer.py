"""Writing the representation store: fill a new version, publish it by one rename."""

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.errors import InputError
from features.store import Dtype, Version, array_shapes, version_folder, version_numbers

KEPT_VERSIONS = 3
INT8_MAX = 127
WRITING = ".writing-"  # prefix of folders not yet published


class StoreWriter:
    """Fills one new version and publishes it. Use as a context manager: what is not published is removed.

    Example:
        with StoreWriter(root, items=1000, dim=128, dtype="int8", encoder="a-b1") as writer:
            writer.put(np.array([3, 5]), vectors)
            version = writer.publish()
    """

    def __init__(
        self,
        root: Path | str,
        items: int,
        dim: int,
        dtype: Dtype = "float16",
        *,
        encoder: str,
        matryoshka: tuple[int, ...] = (),
        dataset_fingerprint: str | None = None,
        item_ids: pl.Series | None = None,
        base: Version | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """`item_ids`: source id of each row. `base`: start from its vectors, bit for bit (missing items are added).
        `facts`: more for meta.json.

        Raises InputError if `base` is of another encoder, dim or dtype, or has more items, or ids do not fit.
        """
        self.root, self.base = Path(root), base
        self.meta = {"encoder": encoder, "dim": dim, "matryoshka": list(matryoshka), "dtype": dtype, "items": items}
        self.meta["dataset_fingerprint"] = dataset_fingerprint
        if base is not None:
            for key in ("encoder", "dim", "matryoshka", "dtype"):
                if base.meta[key] != self.meta[key]:
                    raise InputError(
                        f"{root}: {key} is {base.meta[key]!r} in version {base.number}, not {self.meta[key]!r}"
                    )
            if base.meta["items"] > items:
                raise InputError(f"{root}: version {base.number} has {base.meta['items']} items, more than {items}")
            if base.meta["ids"] and (item_ids is None or not base.item_ids.equals(item_ids[: base.meta["items"]])):
                raise InputError(f"{root}: the items are not those of version {base.number} in its order")
        if item_ids is not None and len(item_ids) != items:
            raise InputError(f"{root}: {len(item_ids)} item ids for {items} items")
        text, kind = ids_text(item_ids) if item_ids is not None else (b"", None)
        self.meta |= {"ids": kind, "ids_bytes": len(text)} | dict(facts or {})
        self._folder, self._lock = writing_folder(self.root)
        if kind:
            (self._folder / "ids.txt").write_bytes(text)
        self._maps = {
            name: _created(self._folder / f"{name}.bin", kind, shape)
            for name, (kind, shape) in array_shapes(items, dim, dtype).items()
        }
        if base is not None:
            for name, array in self._maps.items():
                array[: base.meta["items"]] = getattr(base, name)

    @property
    def folder(self) -> Path:
        """Where the version is being written; a further file put here is published with it."""
        return self._folder

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Store vectors (n, dim) of item indices (n,); int8 keeps one scale a row (largest absolute value = 127).

        Raises InputError for a vector that is not finite or is all zero: it has no direction and must stay missing.
        """
        self.put_codes(rows, *quantised(vectors, self.meta["dtype"], rows))

    def put_codes(self, rows: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> None:
        """Store codes (n, dim) with their scales (n,) as they are."""
        self._maps["codes"][rows] = codes
        self._maps["scale"][rows] = scale
        self._maps["present"][rows] = True

    def publish(self) -> Version:
        """Make this the newest version and remove versions beyond the last KEPT_VERSIONS.

        Raises InputError if another version than `base` has become the newest: its vectors would be lost.
        """
        digest = hashlib.sha256()
        for name, array in self._maps.items():
            if array.size:
                array.flush()  # pyright: ignore[reportAttributeAccessIssue]
            with open(self._folder / f"{name}.bin", "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        own = digest.hexdigest()
        facts = {
            "vectors": int(self._maps["present"].sum()),
            "fingerprint": own,
            "origin": self.base.meta["origin"] if self.base else own,
        }
        write_meta(self._folder, self.meta | facts)
        with locked(self.root):
            return publish_folder(self.root, self._folder, self.base)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        os.close(self._lock)


def writing_folder(root: Path) -> tuple[Path, int]:
    """A new folder to write a version in, and the open lock that says it is alive; what killed writers left goes."""
    root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        for left in root.glob(f"{WRITING}*"):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            except BlockingIOError:
                continue  # its writer lives
            finally:
                os.close(lock)
        folder = Path(tempfile.mkdtemp(dir=root, prefix=WRITING))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def quantised(vectors: np.ndarray, dtype: str, names: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, dim) of the dtype and scales (n,) of vectors (n, dim); int8: largest absolute value of a row = 127.

    Raises InputError, with its one of `names` (n), for a vector that is not finite or is all zero.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    largest = np.abs(vectors).max(axis=1, initial=0)
    bad = ~np.isfinite(largest) | (largest == 0)
    if bad.any():
        what = "zero" if largest[bad][0] == 0 else "not finite"
        raise InputError(f"vector of item {list(names)[bad.argmax()]} is {what}; leave the item out instead")
    if dtype != "int8":
        return vectors.astype(dtype), np.ones(len(vectors), np.float32)
    scale = largest / INT8_MAX
    return np.rint(vectors / scale[:, None]).astype(np.int8), scale


def ids_text(item_ids: pl.Series) -> tuple[bytes, str]:
    """(one id a line in UTF-8, kind: whole | text) of whole numbers or text.

    Raises InputError for a null, a line break in an id, or ids of another kind.
    """
    kind = "whole" if item_ids.dtype.is_integer() else "text"
    if (kind == "text" and item_ids.dtype != pl.String) or item_ids.null_count():
        raise InputError(
            f"item ids are {item_ids.dtype} with {item_ids.null_count()} nulls; give whole numbers or text"
        )
    lines = item_ids.cast(pl.String)
    if kind == "text" and lines.str.contains("\n", literal=True).any():
        raise InputError("an item id holds a line break; ids are stored one a line")
    return "".join(f"{line}\n" for line in lines).encode(), kind


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json, with the coverage, through to the disk."""
    meta["coverage"] = meta["vectors"] / meta["items"] if meta["items"] else 0.0
    with open(folder / "meta.json", "w") as file:
        json.dump(meta, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def publish_folder(root: Path, folder: Path, base: Version | None) -> Version:
    """Make a finished folder the newest version and remove versions beyond the last KEPT_VERSIONS; needs the lock.

    Raises InputError if another version than `base` has become the newest: its vectors would be lost.
    """
    last = max(version_numbers(root), default=0)
    if base is not None:
        require_newest(root, base)
    folder.chmod(0o755)
    target = version_folder(root, last + 1)
    os.rename(folder, target)
    version = Version(target)
    for number in version_numbers(root)[:-KEPT_VERSIONS]:
        shutil.rmtree(version_folder(root, number))
    return version


def require_newest(root: Path, base: Version) -> None:
    """Raise InputError unless `base` is the newest version."""
    last = max(version_numbers(root), default=0)
    if base.number != last:
        raise InputError(f"{root}: version {last} was published meanwhile; start again from it")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One publisher at a time, over processes and threads; a crash frees the lock."""
    with open(root / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _created(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new file of zeros, mapped for writing."""
    if not math.prod(shape):
        path.touch()
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="w+", shape=shape)
