"""New items into a representation store without copying it.

A version that only adds rows shares its files with the version before it (hard links): the new rows are written behind
the old ones, where the old version, which is as long as its meta.json says, does not look. Bytes once written are
never written again, so a file that is longer than its version (a writer was killed, or a version was removed by
hand) is copied and not continued. The cost is that of the new rows, whatever the store's size.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
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
    digest = hashlib.sha256(meta["fingerprint"].encode())
    for _, added in new.values():
        digest.update(added)
    meta = dict(meta) | dict(facts or {})
    meta["fingerprint"] = digest.hexdigest()
    for name, count in (("items", len(scale)), ("vectors", len(scale)), ("ids_bytes", len(text))):
        meta[name] += count
    folder, lock = writing_folder(root)
    try:
        with locked(root):
            require_newest(root, base)
            for name, (used, added) in new.items():
                _extend(base.folder / name, used, added, folder / name)
            write_meta(folder, meta)
            return publish_folder(root, folder, base)
    finally:
        os.close(lock)
        if folder.exists():
            shutil.rmtree(folder)


def _extend(before: Path, used: int, added: bytes, after: Path) -> None:
    """`after` = the first `used` bytes of `before`, then `added`; the same file on the disk where that is possible."""
    shared = before.stat().st_size == used
    if shared:
        try:
            os.link(before, after)
        except OSError:  # a file system without hard links
            shared = False
    if not shared:
        with open(before, "rb") as source, open(after, "wb") as target:
            _copy(source.fileno(), target.fileno(), used)
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
