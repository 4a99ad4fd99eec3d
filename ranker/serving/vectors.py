"""Item vectors of a served model: looked up by item id in a representation store that may move on meanwhile.

Table row 0 means "no vector", row r + 1 is row r of the store, as in training (features.vector_source). Vectors that
were trained have a table of their own; items that it does not have follow behind it, as the store has them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from data.config import Config
from data.errors import InputError
from features.codebooks import Codebooks, ItemCodes
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store, Version
from features.store_writer import StoreWriter
from features.vector_source import MISSING, VectorSource
from ranker.serving.host_tables import HostTable

CHUNK_ROWS = 1 << 16


class VectorFacts(Config):
    """What a package says about one set of vectors."""

    encoder: str = Field(description="version of the encoder; vectors of another one mean something else")
    dim: int
    table: bool = Field(description="whether the vectors were trained: tables/NAME.npy has them, later items the store")


@dataclass(frozen=True)
class Pinned:
    """One version of a store and its rows by item id; it does not change while a batch is scored.

    Attributes:
        first: table row of the store's row 0.
        trained: the version that a trained table started from, None for vectors that are as stored.
        codes: semantic ids of the table rows, if the model reads them.
    """

    version: Version
    items: ItemRows
    first: int = 1
    trained: "Pinned | None" = None
    codes: ItemCodes | None = None

    def ids(self, item_ids: np.ndarray) -> np.ndarray:
        """Table rows (n,) int64 of item ids (n,); MISSING where an item has no vector."""
        rows = self.items.find(pl.Series(item_ids))
        known = rows != UNKNOWN
        known[known] = self.version.present[rows[known]]
        own = np.where(known, rows + self.first, MISSING)
        if self.trained is None:
            return own
        before = self.trained.ids(item_ids)
        return np.where(before == MISSING, own, before)

    def stored(self, rows: np.ndarray, dim: int) -> np.ndarray:
        """Vectors (n, dim) float32 of table rows (n,), none MISSING, as the stores have them."""
        out = np.empty((len(rows), dim), np.float32)
        own = rows >= self.first
        out[own] = self.version.vectors(rows[own] - self.first, dim)[0]
        if self.trained is not None:
            out[~own] = self.trained.stored(rows[~own], dim)
        return out


class ServedVectors:
    """The vectors of one name. `pinned` is replaced as a whole, so a reader takes it once a batch."""

    def __init__(
        self,
        name: str,
        facts: VectorFacts,
        own: Path,
        root: Path,
        table: HostTable | None,
        codebooks: Codebooks | None = None,
    ) -> None:
        """`own`: the package's store. `root`: the store to follow. `table`: of trained vectors. `codebooks`: of codes.

        Raises InputError if the store is absent, or of another encoder or width, or has no ids.
        """
        self.name, self.facts, self._table = name, facts, table
        self._store = Store(root)
        current = self._store.current
        self._check(current)
        if table is None:
            self.pinned = Pinned(current, ItemRows(current))
        else:
            start = Store(own).current
            trained = Pinned(start, ItemRows(start))
            self.pinned = Pinned(current, ItemRows(current), len(table.codes), trained)
        if codebooks is not None:
            self.pinned = self._coded(self.pinned, codebooks, None)

    def refresh(self) -> bool:
        """Move to the newest version of the store; True if that is another one.

        Raises InputError, and stays where it is, if that one is of another encoder or width.
        """
        if not self._store.refresh():
            return False
        version = self._store.current
        self._check(version)
        before = self.pinned
        pinned = replace(before, version=version, items=before.items.later(version))
        if before.codes is not None:
            same = version.meta["origin"] == before.version.meta["origin"]
            pinned = self._coded(pinned, before.codes.codebooks, before.codes if same else None)
        self.pinned = pinned
        return True

    def _coded(self, pinned: Pinned, codebooks: Codebooks, before: ItemCodes | None) -> Pinned:
        """`pinned` with codes; those known `before` of the same rows are kept."""
        rows = pinned.first + pinned.version.meta["items"]

        def stored(at: np.ndarray) -> np.ndarray:
            return pinned.stored(at, self.facts.dim)

        codes = ItemCodes(codebooks, stored, rows) if before is None else before.grown(stored, rows)
        return replace(pinned, codes=codes)

    def rows(self, ids: Tensor, pinned: Pinned) -> Tensor:
        """Vectors (U, M) float32 of table rows (U,); 0 where there is none."""
        at = ids.numpy()
        rows = at - pinned.first
        rows[rows < 0] = pinned.version.meta["items"]  # behind the last: no vector
        out = pinned.version.vectors(rows, self.facts.dim)[0]
        if self._table is not None:
            trained = (at < pinned.first) & (at != MISSING)
            out[trained] = self._table.rows(torch.from_numpy(at[trained])).numpy()
        return torch.from_numpy(out)

    def _check(self, version: Version) -> None:
        meta, facts = version.meta, self.facts
        if meta["encoder"] != facts.encoder or facts.dim not in (*meta["matryoshka"], meta["dim"]):
            raise InputError(
                f"{version.folder}: vectors of encoder {meta['encoder']!r} with {meta['dim']} dimensions; the model "
                f"reads {self.name!r} of encoder {facts.encoder!r} with {facts.dim}"
            )


class RequestVectors(VectorSource):
    """The table rows of a batch's own items, in the place of a dataset's source."""

    def __init__(self, ids: np.ndarray, codes: ItemCodes | None) -> None:
        """`ids`: table row of each item of the batch. `codes`: of the table rows."""
        self._ids, self._codes = ids, codes

    def rows(self, items: np.ndarray) -> np.ndarray:
        """Table rows (n,) of items (n,)."""
        return self._ids[items]


def embed_store(source: VectorSource, item_ids: pl.Series, folder: Path) -> None:
    """Copy the version that a model was trained with into a package, cut to the width that it reads.

    `item_ids`: of the dataset, for a store that has none itself.
    Raises InputError for shuffled vectors: a control is not served.
    """
    version, dim = source.version, source.dim
    _require_content(source)
    meta, items = version.meta, version.meta["items"]
    ids = version.item_ids if meta["ids"] else item_ids
    with StoreWriter(folder, items, dim, meta["dtype"], encoder=meta["encoder"], item_ids=ids) as writer:
        for start in range(0, items, CHUNK_ROWS):
            rows = start + np.flatnonzero(version.present[start : start + CHUNK_ROWS])
            writer.put_codes(rows, version.codes[rows, :dim], version.scale[rows])
        writer.publish()


def embed_trained(
    source: VectorSource, item_ids: pl.Series, folder: Path, encoder: str, rows: Callable[[int, int], np.ndarray]
) -> None:
    """Write a package's store of vectors that training computed anew: `rows(start, stop)` of the table, by `encoder`.

    `item_ids`: of the dataset, for a store that has none itself.
    Raises InputError for shuffled vectors: a control is not served.
    """
    _require_content(source)
    version, items = source.version, source.version.meta["items"]
    ids = version.item_ids if version.meta["ids"] else item_ids
    with StoreWriter(folder, items, source.dim, version.meta["dtype"], encoder=encoder, item_ids=ids) as writer:
        for start in range(0, items, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, items)
            there = np.flatnonzero(version.present[start:stop])
            writer.put(start + there, rows(start + 1, stop + 1)[there])
        writer.publish()


def _require_content(source: VectorSource) -> None:
    if source.spec.shuffle is not None:
        raise InputError(f"features.vectors {source.spec.name!r} are shuffled; such a control is not for serving")
