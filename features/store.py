"""The representation store: versions of multimodal vectors, row-aligned to item indices, read by memory map.

    STORE/v00000007/{codes.bin (items, dim) float16 or int8, scale.bin (items,) float32, present.bin (items,) bool,
                     ids.txt one source item id a line, meta.json}

A version is published by one rename of a finished folder and never changes afterwards; the newest is the one with
the highest number. A vector is `codes * scale`. An item without a vector is False in the mask, never a silent zero.
Arrays are row-major without a header, as long as meta.json says: what stands behind belongs to later versions that
share the file (features.store_append). Rows 0.. are the dataset's items in their order, then come appended items.
"""

import json
import math
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from data.errors import InputError

Dtype = Literal["float16", "int8"]


class Version:
    """One published version; it stays readable as long as it is held, whatever is published after it.

    Attributes:
        number: version number.
        meta: encoder, dim, matryoshka, dtype, items, vectors (items that have one), coverage, fingerprint, origin
            (fingerprint of the version whose rows all versions that start from it begin with), dataset_fingerprint,
            and what the writer adds.
        codes, scale, present: read-only memory maps, see the module.
    """

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError for a missing file, InputError for one that is cut off."""
        self.number, self.folder = int(folder.name[1:]), folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        arrays = array_shapes(self.meta["items"], self.meta["dim"], self.meta["dtype"])
        self.codes, self.scale, self.present = (_mapped(folder / f"{name}.bin", *arrays[name]) for name in arrays)
        self._ids = _mapped(folder / "ids.txt", np.dtype(np.uint8), (self.meta["ids_bytes"],))

    @cached_property
    def item_ids(self) -> pl.Series:
        """Source item id of each row, Int64 or String.

        Raises InputError if the writer gave none.
        """
        return self.ids_behind(0)

    def ids_behind(self, ids_bytes: int) -> pl.Series:
        """Ids of the rows behind those of an earlier version of the same origin, whose meta has `ids_bytes`."""
        if self.meta["ids"] is None:
            raise InputError(f"{self.folder}: the store has no item ids; embed again")
        lines = self._ids[ids_bytes:].tobytes().decode().split("\n")[:-1]
        ids = pl.Series("item_id", lines, dtype=pl.String)
        return ids.cast(pl.Int64) if self.meta["ids"] == "whole" else ids

    def vectors(self, rows: np.ndarray, dim: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (n, dim) float32 and mask (n,) bool of item indices (n,); where the mask is False the vector is 0.

        An index past this version's items (an item that is newer) has no vector. `dim`: a Matryoshka prefix, scaled
        to length 1. Raises InputError for a dim that is not one of the version's, ValueError for a negative index.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if (rows < 0).any():
            raise ValueError(f"item index {rows.min()} is negative")
        if dim is not None and dim not in (allowed := [*self.meta["matryoshka"], self.meta["dim"]]):
            raise InputError(
                f"store version {self.number}: no prefix of {dim} dimensions; it has {sorted(set(allowed))}"
            )
        known = rows < len(self.present)
        if not len(self.present):
            return np.zeros((len(rows), dim or self.meta["dim"]), np.float32), known
        safe = np.where(known, rows, 0)
        mask = known & self.present.take(safe)
        codes = self.codes.take(safe, 0)[:, :dim]
        found = torch.from_numpy(codes).float().numpy()  # numpy takes ten times as long
        found *= self.scale.take(safe)[:, None]
        if dim is not None:
            found /= np.maximum(np.sqrt(np.add.reduce(found * found, axis=1, keepdims=True)), 1e-12)
        found[~mask] = 0
        return found, mask


def open_version(root: Path | str, number: int) -> Version:
    """The version `number` of a store, whatever was published since.

    Raises InputError if it is not there (a store keeps its last few).
    """
    try:
        return Version(version_folder(Path(root), number))
    except FileNotFoundError:
        kept = ", ".join(map(str, version_numbers(Path(root)))) or "none"
        raise InputError(f"{root}: version {number} of the store is gone; versions there: {kept}") from None


class Store:
    """A reader that swaps versions without a restart (dynamic loading): call `refresh` where a swap is welcome."""

    def __init__(self, root: Path | str) -> None:
        """Raises InputError if `root` holds no version."""
        self.root = Path(root)
        self.current = self._newest()

    def refresh(self) -> bool:
        """Move to the newest version; True if that is another one than before."""
        if version_numbers(self.root)[-1:] == [self.current.number]:
            return False
        before, self.current = self.current.number, self._newest()
        return self.current.number != before

    def _newest(self) -> Version:
        while numbers := version_numbers(self.root):
            folder = version_folder(self.root, numbers[-1])
            try:
                return Version(folder)
            except FileNotFoundError:
                if version_numbers(self.root)[-1:] == numbers[-1:]:  # not overtaken and removed: really broken
                    raise InputError(f"{folder}: a file is missing; embed again") from None
        raise InputError(f"{self.root}: no representation store; it must hold a version, such as v00000001")


def array_shapes(items: int, dim: int, dtype: str) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """(dtype, shape) of the arrays of a version, by name."""
    return {
        "codes": (np.dtype(dtype), (items, dim)),
        "scale": (np.dtype(np.float32), (items,)),
        "present": (np.dtype(bool), (items,)),
    }


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The first rows of a file, read-only."""
    if not math.prod(shape):  # no bytes cannot be mapped
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return empty
    try:
        return np.asarray(np.memmap(path, dtype, mode="r", shape=shape))  # as a plain array: quicker to index
    except ValueError:
        raise InputError(f"{path}: cut off; embed again") from None


def version_folder(root: Path, number: int) -> Path:
    """Folder of a version."""
    return root / f"v{number:08d}"


def version_numbers(root: Path) -> list[int]:
    """Published version numbers, ascending."""
    names = os.listdir(root) if root.is_dir() else []
    return sorted(int(name[1:]) for name in names if re.fullmatch(r"v\d{8}", name))
