"""The representation store: versions of multimodal vectors, row-aligned to item indices, read by memory map.

    STORE/v00000007/{codes.npy (items, dim) float16 or int8, scale.npy (items,) float32, present.npy (items,) bool,
                     meta.json}

A version is published by one rename of a finished folder and never changes afterwards; the newest is the one with
the highest number. A vector is `codes * scale`. An item without a vector is False in the mask, never a silent zero.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.arrays import open_array
from data.errors import InputError

Dtype = Literal["float16", "int8"]
KEPT_VERSIONS = 3
INT8_MAX = 127


class Version:
    """One published version; it stays readable as long as it is held, whatever is published after it.

    Attributes:
        number: version number.
        meta: encoder, dim, matryoshka, dtype, items, coverage, fingerprint, dataset_fingerprint.
        codes, scale, present: read-only memory maps, see the module.
    """

    def __init__(self, folder: Path) -> None:
        self.number = int(folder.name[1:])
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.codes, self.scale, self.present = (
            open_array(folder / f"{name}.npy") for name in ("codes", "scale", "present")
        )

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
        safe = np.where(known, rows, 0)
        mask = known & self.present[safe] if len(self.present) else known
        out = np.zeros((len(rows), dim or self.meta["dim"]), dtype=np.float32)
        out[mask] = self.codes[rows[mask], : out.shape[1]].astype(np.float32) * self.scale[rows[mask], None]
        if dim is not None:
            out[mask] /= np.maximum(np.linalg.norm(out[mask], axis=1, keepdims=True), 1e-12)
        return out, mask


class Store:
    """A reader that swaps versions without a restart (dynamic loading): call `refresh` where a swap is welcome."""

    def __init__(self, root: Path | str) -> None:
        """Raises InputError if `root` holds no version, or a broken one."""
        self.root = Path(root)
        self.current = self._newest()

    def refresh(self) -> bool:
        """Move to the newest version; True if that is another one than before."""
        if _numbers(self.root)[-1:] == [self.current.number]:
            return False
        before, self.current = self.current.number, self._newest()
        return self.current.number != before

    def _newest(self) -> Version:
        while numbers := _numbers(self.root):
            try:
                return Version(_folder(self.root, numbers[-1]))
            except FileNotFoundError:
                if _numbers(self.root)[-1:] == numbers[-1:]:  # not overtaken and removed meanwhile: really broken
                    raise InputError(f"{_folder(self.root, numbers[-1])}: a file is missing; embed again") from None
        raise InputError(f"{self.root}: no representation store; it must hold a version, such as v00000001")


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
        base: Version | None = None,
    ) -> None:
        """`base`: start from its vectors, bit for bit (new items are added to them).

        Raises InputError if `base` is of another encoder, dim or dtype, or has more items.
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
        self.root.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=self.root, prefix=".writing-"))
        shapes = {"codes": ((items, dim), dtype), "scale": ((items,), "float32"), "present": ((items,), "bool")}
        self._maps = {
            name: np.lib.format.open_memmap(self._folder / f"{name}.npy", mode="w+", dtype=np.dtype(kind), shape=shape)
            for name, (shape, kind) in shapes.items()
        }
        if base is not None:
            for name, array in self._maps.items():
                array[: base.meta["items"]] = getattr(base, name)

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Store vectors (n, dim) of item indices (n,); int8 keeps one scale a row (largest absolute value = 127).

        Raises InputError for a vector that is not finite or is all zero: it has no direction and must stay missing.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        largest = np.abs(vectors).max(axis=1, initial=0)
        bad = ~np.isfinite(largest) | (largest == 0)
        if bad.any():
            what = "zero" if largest[bad][0] == 0 else "not finite"
            raise InputError(f"vector of item {np.asarray(rows)[bad][0]} is {what}; leave the item out instead")
        scale = np.ones(len(vectors), dtype=np.float32)
        if self.meta["dtype"] == "int8":
            scale = largest / INT8_MAX
            vectors = np.rint(vectors / scale[:, None])
        self.put_codes(rows, vectors, scale)

    def put_codes(self, rows: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> None:
        """Store codes (n, dim) with their scales (n,) as they are."""
        self._maps["codes"][rows] = codes
        self._maps["scale"][rows] = scale
        self._maps["present"][rows] = True

    def publish(self) -> Version:
        """Make this the newest version and remove versions beyond the last KEPT_VERSIONS.

        Raises InputError if another version than `base` has become the newest: its vectors would be lost.
        """
        for array in self._maps.values():
            array.flush()
        digest = hashlib.sha256()
        for name in self._maps:
            with open(self._folder / f"{name}.npy", "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        meta = self.meta | {"coverage": float(self._maps["present"].mean()) if self.meta["items"] else 0.0}
        with open(self._folder / "meta.json", "w") as file:
            json.dump(meta | {"fingerprint": digest.hexdigest()}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        self._folder.chmod(0o755)
        with _locked(self.root):
            last = max(_numbers(self.root), default=0)
            if self.base is not None and self.base.number != last:
                raise InputError(f"{self.root}: version {last} was published meanwhile; start again from it")
            target = _folder(self.root, last + 1)
            os.rename(self._folder, target)
            version = Version(target)
            for number in _numbers(self.root)[:-KEPT_VERSIONS]:
                shutil.rmtree(_folder(self.root, number))
        return version

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)


def import_int8(
    writer: StoreWriter, item_ids: np.ndarray, chunks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, int]:
    """Ready-made int8 vectors, keyed by source id, into a writer: codes bit for bit, scaled to length 1.

    item_ids: (items,) source id of each item index. chunks: (ids (n,), vectors (n, dim) int8).
    Returns counts {stored, unknown (id not among the items), zero (no direction: stays missing)}.
    Raises InputError for another width than the writer's, or a writer that is not int8.
    """
    if writer.meta["dtype"] != "int8":
        raise InputError(f"{writer.root}: dtype is {writer.meta['dtype']}; int8 vectors need an int8 store")
    order = np.argsort(item_ids, kind="stable")
    sorted_ids = np.asarray(item_ids)[order]
    counts = {"stored": 0, "unknown": 0, "zero": 0}
    for ids, vectors in chunks:
        if vectors.shape[1] != writer.meta["dim"]:
            raise InputError(
                f"{writer.root}: vectors have {vectors.shape[1]} numbers; the store's dim is {writer.meta['dim']}"
            )
        at = np.searchsorted(sorted_ids, ids)
        known = at < len(sorted_ids)
        known[known] = sorted_ids[at[known]] == ids[known]
        norm = np.linalg.norm(vectors.astype(np.float32), axis=1)
        keep = known & (norm > 0)
        writer.put_codes(order[at[keep]], vectors[keep], 1 / norm[keep])
        counts["stored"] += int(keep.sum())
        counts["unknown"] += int((~known).sum())
        counts["zero"] += int((known & (norm == 0)).sum())
    return counts


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One publisher at a time, over processes and threads; a crash frees the lock."""
    with open(root / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder(root: Path, number: int) -> Path:
    return root / f"v{number:08d}"


def _numbers(root: Path) -> list[int]:
    """Published version numbers, ascending."""
    names = os.listdir(root) if root.is_dir() else []
    return sorted(int(name[1:]) for name in names if re.fullmatch(r"v\d{8}", name))
