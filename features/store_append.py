"""New vectors into a representation store without copying it.

A version that only adds rows shares its files with the version before it (hard links): the new rows are written behind
the old ones, where the old version, which is as long as its meta.json says, does not look; rows that had no vector are
written in their places, where the old version, whose mask is a file of its own, does not look either. Bytes once
written are never written again, so a file that is longer than its version or holds something in such a place (a writer
was killed, or a version was removed by hand) is copied and not continued. The cost is that of the new rows, and of
the mask (a byte an item) where rows are filled, whatever the store's size.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.errors import InputError
from features.store import Version
from features.store_writer import (
    ids_text,
    locked,
    publish_folder,
    quantised,
    require_newest,
    write_meta,
    writing_folder,
)

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK)  # a file system has no (more) hard links


def append(
    root: Path | str, base: Version, item_ids: pl.Series, vectors: np.ndarray, facts: Mapping[str, Any] | None = None
) -> Version:
    """Publish a version with the rows of `base` and, behind them, vectors (n, dim) of the items `item_ids` (n,).

    `facts`: what meta.json is to say instead of the base's. The caller makes sure that no id is in `base` already.

    Raises InputError if the base has no ids or ids of another kind, if another version than `base` has become the
    newest, or for a vector without direction.
    """
    root, meta = Path(root), base.meta
    codes, scale = quantised(vectors, meta["dtype"], item_ids)
    text, kind = ids_text(item_ids)
    if kind != meta["ids"]:
        raise InputError(f"{base.folder}: item ids are of kind {meta['ids']!r}, not {kind!r}")
    new = {
        "codes.bin": (base.codes.nbytes, codes.tobytes()),
        "scale.bin": (base.scale.nbytes, scale.tobytes()),
        "present.bin": (base.present.nbytes, np.ones(len(scale), bool).tobytes()),
        "ids.txt": (meta["ids_bytes"], text),
    }
    meta = dict(meta) | dict(facts or {})
    meta["fingerprint"] = _digest(base, *(added for _, added in new.values()))
    for name, count in (("items", len(scale)), ("vectors", len(scale)), ("ids_bytes", len(text))):
        meta[name] += count

    def write(folder: Path) -> None:
        for name, (used, added) in new.items():
            _extend(base.folder / name, used, added, folder / name)
        write_meta(folder, meta)

    return _published(root, base, write)


def fill(root: Path | str, base: Version, rows: np.ndarray, vectors: np.ndarray) -> Version:
    """Publish a version in which rows (n,) of `base`, items that had no vector there, have vectors (n, dim).

    Raises InputError if a row has a vector already or is none of the base's, if another version than `base` has become
    the newest, or for a vector without direction.
    """
    root, meta = Path(root), dict(base.meta)
    order = np.argsort(rows)
    rows, vectors = np.asarray(rows, np.int64)[order], np.asarray(vectors)[order]
    if len(rows) and not 0 <= rows[0] <= rows[-1] < meta["items"]:
        raise InputError(f"{base.folder}: rows {rows[0]} to {rows[-1]} are to be filled; it has {meta['items']} items")
    if base.present[rows].any() or (np.diff(rows) == 0).any():
        raise InputError(f"{base.folder}: a row to be filled has a vector already, or is given twice")
    codes, scale = quantised(vectors, meta["dtype"], rows)
    meta["fingerprint"] = _digest(base, rows.tobytes(), codes.tobytes(), scale.tobytes())
    meta["vectors"] += len(rows)

    def write(folder: Path) -> None:
        for name, values, old in (("codes.bin", codes, base.codes), ("scale.bin", scale, base.scale)):
            untouched = not old[rows].any()
            _continue(base.folder / name, old.nbytes, folder / name, untouched)
            _put(folder / name, old.shape, rows, values)
        _continue(base.folder / "present.bin", base.present.nbytes, folder / "present.bin", False)
        _put(folder / "present.bin", base.present.shape, rows, np.ones(len(rows), bool))
        _continue(base.folder / "ids.txt", meta["ids_bytes"], folder / "ids.txt", True)
        write_meta(folder, meta)

    return _published(root, base, write)


def _digest(base: Version, *added: bytes) -> str:
    digest = hashlib.sha256(base.meta["fingerprint"].encode())
    for part in added:
        digest.update(part)
    return digest.hexdigest()


def _published(root: Path, base: Version, write: Callable[[Path], None]) -> Version:
    """The version that `write` makes in a folder of its own, with the store locked; nothing is left if it fails."""
    folder, lock = writing_folder(root)
    try:
        with locked(root):
            require_newest(root, base)
            write(folder)
            return publish_folder(root, folder, base)
    finally:
        os.close(lock)
        if folder.exists():
            shutil.rmtree(folder)


def _continue(before: Path, used: int, after: Path, share: bool) -> None:
    """`after` = the first `used` bytes of `before`; with `share` the same file on the disk where that is possible."""
    if share and before.stat().st_size == used:
        try:
            os.link(before, after)
            return
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
    with open(before, "rb") as source, open(after, "wb") as target:
        _copy(source.fileno(), target.fileno(), used)


def _put(path: Path, shape: tuple[int, ...], rows: np.ndarray, values: np.ndarray) -> None:
    """Write rows of an array in a file in place, through to the disk."""
    array = np.memmap(path, values.dtype, mode="r+", shape=shape)
    array[rows] = values
    array.flush()


def _extend(before: Path, used: int, added: bytes, after: Path) -> None:
    """`after` = the first `used` bytes of `before`, then `added`; the same file on the disk where that is possible."""
    _continue(before, used, after, True)
    with open(after, "ab") as file:
        file.write(added)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        sent = os.sendfile(target, source, at, size - at)
        if not sent:
            raise InputError(f"a store file ends at byte {at}, before its {size}; embed again")
        at += sent
