"""Where in a representation store an item stands: source item id -> row.

A store's rows follow the items of the dataset it was made for; items that came later stand behind them. A reader that
holds ids (a server, or a dataset prepared again with more items) asks here.
"""

import copy

import numpy as np
import polars as pl

from data.errors import InputError
from features.store import Version

UNKNOWN = -1


class ItemRows:
    """Look-up by id that grows with the store: the first version is sorted once, what is appended goes into a dict."""

    def __init__(self, version: Version) -> None:
        """Raises InputError if the store has no ids."""
        self._start(version)

    def _start(self, version: Version) -> None:
        ids = version.item_ids
        order = ids.arg_sort()
        self.dtype, self._version = ids.dtype, version
        self._sorted, self._order = ids.gather(order), order.to_numpy()
        self._numbers = self._sorted.to_numpy() if ids.dtype.is_integer() else None  # far quicker for a few ids
        self._appended: dict[int | str, int] = {}

    def refresh(self, version: Version) -> None:
        """Follow the store to a later version; work grows with what was appended since.

        Another embedding of the catalogue, or many appended items, sort everything again.
        """
        before, now = self._version.meta, version.meta
        grown = now["items"] - before["items"]
        many = len(self._appended) + grown > max(len(self._order), 4096)
        if now["origin"] != before["origin"] or grown < 0 or many:
            self._start(version)
            return
        added = version.ids_behind(before["ids_bytes"])
        self._appended.update(zip(added, range(before["items"], now["items"]), strict=True))
        self._version = version

    def later(self, version: Version) -> "ItemRows":
        """A look-up for a later version; this one stays as it is (for readers in other threads)."""
        other = copy.copy(self)
        other._appended = dict(self._appended)
        other.refresh(version)
        return other

    def find(self, item_ids: pl.Series) -> np.ndarray:
        """Rows (n,) int64 of item ids (n,), UNKNOWN where the store has no such item.

        Raises InputError for ids of another kind (text or whole numbers).
        """
        if item_ids.dtype.is_integer() != self.dtype.is_integer():
            raise InputError(f"item ids are {item_ids.dtype}; the store's are {self.dtype}")
        item_ids = item_ids.cast(self.dtype)
        rows = np.full(len(item_ids), UNKNOWN, np.int64)
        if len(self._sorted):
            at, same = self._nearest(item_ids)
            rows[same] = self._order[at[same]]
        if self._appended:
            for place in np.flatnonzero(rows == UNKNOWN):
                rows[place] = self._appended.get(item_ids[int(place)], UNKNOWN)
        return rows

    def _nearest(self, item_ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """(place among the sorted ids, whether it is that very id) of each id."""
        last = len(self._sorted) - 1
        if self._numbers is not None and not item_ids.null_count():
            ids = item_ids.to_numpy()
            at = np.minimum(np.searchsorted(self._numbers, ids), last)
            return at, self._numbers[at] == ids
        at = np.minimum(self._sorted.search_sorted(item_ids).to_numpy(), last)
        return at, (self._sorted.gather(at) == item_ids).fill_null(False).to_numpy()
