"""Representation stores as the ranker reads them: opened for one dataset, pinned to one version.

The ranker's table of a store has the store's rows, shifted by one: row 0 means "no vector". Where the store was made
for this very dataset, item i has row i + 1; else items are found by their ids.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from data.queries import query_ids
from features.codebooks import Codebooks, ItemCodes
from features.item_rows import ItemRows
from features.spec import FeatureSpec, ItemVectors
from features.store import Store, Version, open_version

MISSING = 0  # row of the table
MISSING_ITEM = -1


class VectorSource:
    """One store, checked against the dataset it is to be used with."""

    def __init__(self, spec: ItemVectors, root: Path, dataset: Dataset, number: int | None = None) -> None:
        """`number`: the version to read; None: the newest.

        Raises InputError if the store is absent, was made for other items, or has no prefix of `spec.dim`.
        """
        self.spec, self.root = spec, root
        self.version: Version = Store(root).current if number is None else open_version(root, number)
        meta = self.version.meta
        self._items: int = dataset.meta["counts"]["items"]
        self._row = self._aligned(dataset)
        allowed = sorted({*meta["matryoshka"], meta["dim"]})
        if spec.dim is not None and spec.dim not in allowed:
            raise InputError(
                f"{root}: features.vectors {spec.name!r} asks for {spec.dim} dimensions; "
                f"the store has prefixes of {', '.join(map(str, allowed))}"
            )
        self.dim: int = spec.dim or meta["dim"]
        if self.dim % 4:
            raise InputError(f"{root}: vectors of {self.dim} dimensions; a table needs a multiple of 4")
        self.table_rows: int = meta["items"] + 1
        self._vector_of = self._permutation() if spec.shuffle is not None else None
        self._waiting = np.zeros(self._items if self._row is None else len(self._row), bool)
        self._codes: ItemCodes | None = None

    def rows(self, items: np.ndarray) -> np.ndarray:
        """Table rows (n,) int64 of item indices (n,); MISSING where an item has no vector."""
        rows = items if self._row is None else self._row[items]
        known = (rows >= 0) & self.version.present[rows] & ~self._waiting[items]
        source = rows if self._vector_of is None else self._vector_of[rows]
        return np.where(known, source + 1, MISSING).astype(np.int64)

    def wait(self, items: np.ndarray) -> None:
        """From now on items (items,) bool have no vector, all others what the store gives: a store that is behind."""
        self._waiting = items

    def know(self, queries: pl.Series, dataset: Dataset) -> None:
        """From now on the numbers of `rows` are those of the ids `queries` and, last, of none."""
        self._row = self._of_queries(queries, dataset)
        self._waiting = np.zeros(len(self._row), bool)

    @cached_property
    def item_of_row(self) -> np.ndarray:
        """Item whose content each row of the table stands for, (table_rows,) int64; MISSING_ITEM where it has no vector
        or the dataset does not have it."""
        rows = np.arange(self._items) if self._row is None else self._row
        items = np.flatnonzero(rows >= 0)
        found = np.full(self.table_rows, MISSING_ITEM)
        found[rows[items] + 1] = items
        found[1:][~self.version.present[: self.table_rows - 1]] = MISSING_ITEM
        return found

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """Table rows (n,) as the store has them, (n, dim) float32, length 1; zeros where there is no vector."""
        out = np.zeros((len(rows), self.dim), np.float32)
        there = rows != MISSING
        out[there] = self.version.vectors(rows[there] - 1, self.dim)[0]
        return out

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop of the table, as `stored`."""
        return self.stored(np.arange(start, stop))

    def codes(self, codebooks: Codebooks) -> ItemCodes:
        """Codes of the table's rows by these codebooks: of the vectors as stored, whatever is trained."""
        if self._codes is None or self._codes.codebooks is not codebooks:
            self._codes = ItemCodes(codebooks, self.stored, self.table_rows)
        return self._codes

    def facts(self) -> dict[str, Any]:
        """What a run records of its store."""
        meta = self.version.meta
        return {
            "path": str(self.root.resolve()),
            "version": self.version.number,
            "fingerprint": meta["fingerprint"],
            "encoder": meta["encoder"],
            "dim": self.dim,
            "coverage": meta["coverage"],
        }

    def _aligned(self, dataset: Dataset) -> np.ndarray | None:
        """Store row of every item of the dataset, (items,) int64, negative where it has none; None: its own number."""
        if self.spec.of == "queries":
            return self._of_queries(query_ids(dataset), dataset)
        meta, items = self.version.meta, dataset.meta["counts"]["items"]
        made_for = meta.get("dataset_fingerprint")
        if meta["items"] >= items and made_for == dataset.fingerprint:
            return None
        if meta["ids"] is not None:
            rows = ItemRows(self.version).find(dataset.items().select("item_id").collect()["item_id"])
            if (rows >= 0).any():
                return rows
            raise InputError(f"{self.root}: the store knows none of the {items:,} items of {dataset.root}; embed them")
        if meta["items"] != items:
            raise InputError(
                f"{self.root}: the store has {meta['items']:,} rows, {dataset.root} has {items:,} items; "
                "embed the items of this dataset"
            )
        if made_for is not None:
            raise InputError(
                f"{self.root}: made for dataset {made_for:.12}, {dataset.root} is {dataset.fingerprint:.12}; "
                "embed the items of this dataset"
            )
        return None

    def _of_queries(self, ids: pl.Series, dataset: Dataset) -> np.ndarray:
        """Store row of every query and, last, of none; negative where it has none."""
        rows = ItemRows(self.version).find(ids) if self.version.meta["ids"] == "text" else np.empty(0, np.int64)
        if not (rows >= 0).any():
            raise InputError(
                f"{self.root}: the store knows none of the {len(ids):,} queries of {dataset.root}; embed them with "
                "moon encoder embed --of queries"
            )
        return np.append(rows, -1)

    def _permutation(self) -> np.ndarray:
        """Whose vector each row gets, (store rows,) int64: those that have one change places."""
        source = np.arange(self.version.meta["items"])
        present = np.flatnonzero(self.version.present)
        source[present] = np.random.default_rng(self.spec.shuffle).permutation(present)
        return source


def require_one_encoder(one: VectorSource, other: VectorSource) -> None:
    """Raise InputError unless vectors of the two can be compared: of one encoder, of one width."""
    for fact in ("encoder", "dim"):
        values = [source.facts()[fact] for source in (one, other)]
        if values[0] != values[1]:
            raise InputError(
                f"{other.root}: vectors {other.spec.name!r} have {fact} {values[1]}, {one.spec.name!r} {values[0]}; "
                "their cosine means nothing"
            )


def open_sources(
    spec: FeatureSpec, dataset: Dataset, stores: dict[str, Path], versions: dict[str, int] | None = None
) -> dict[str, VectorSource]:
    """The store of each of the spec's vectors, by name; `versions`: those to read (others: the newest).

    Raises InputError for a store that is missing, unknown to the spec, or unfit (see VectorSource).
    """
    names = [v.name for v in spec.vectors]
    for name in stores:
        if name not in names:
            known = f"its vectors are: {', '.join(names)}" if names else "it has no features.vectors"
            raise InputError(f"--store {name}={stores[name]}: the recipe asks for no such vectors; {known}")
    for name in names:
        if name not in stores:
            raise InputError(f"features.vectors {name!r} needs a representation store; give --store {name}=DIR")
    numbers = versions or {}
    return {v.name: VectorSource(v, stores[v.name], dataset, numbers.get(v.name)) for v in spec.vectors}


def named_folders(option: str, names: list[str], words: list[str]) -> dict[str, Path]:
    """Folders by name from the words of an option: NAME=DIR, or DIR alone where the recipe has one of such `names`.

    Raises InputError for a DIR alone where the recipe has none or several, or a name given twice.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            if len(names) != 1:
                asked = f"asks for {len(names)} ({', '.join(names)}); give NAME=DIR" if names else "asks for none"
                raise InputError(f"{option} {word}: the recipe {asked}")
            name, folder = names[0], word
        if name in found:
            raise InputError(f"{option} {word}: {name!r} is given twice")
        found[name] = Path(folder)
    return found
