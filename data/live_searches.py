"""Every user's searches, which grow while they are read."""

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.queries import open_searches, query_ids

_SPAN = 1 << 34  # seconds


class LiveSearches:
    """The searches of a dataset, in memory, and those that are added."""

    def __init__(self, dataset: Dataset) -> None:
        """Raises InputError if the dataset knows no queries."""
        known = open_searches(dataset)
        user = np.repeat(np.arange(len(known.offsets) - 1), np.diff(known.offsets))
        self._key, self._query = _key(user, np.asarray(known.ts)), np.asarray(known.query).astype(np.int64)
        self._ids = query_ids(dataset)
        self._number = {name: number for number, name in enumerate(self._ids.to_list())}

    def add(self, user: np.ndarray, ts: np.ndarray, ids: pl.Series) -> None:
        """Take searches in, (n,) each: users, Unix seconds, and the queries' ids; null: nothing was searched for."""
        asked = ids.is_not_null().to_numpy()
        names = ids.drop_nulls().to_list()
        fresh = [name for name in dict.fromkeys(names) if name not in self._number]
        self._number |= {name: len(self._ids) + place for place, name in enumerate(fresh)}
        self._ids = pl.concat([self._ids, pl.Series(fresh, dtype=pl.String)])
        key = np.concatenate([self._key, _key(user, ts)[asked]])
        query = np.concatenate([self._query, np.array([self._number[name] for name in names], np.int64)])
        order = np.lexsort((query, key))
        self._key, self._query = key[order], query[order]

    def before(self, user: np.ndarray, ts: np.ndarray, length: int) -> pl.Series:
        """(n,) lists of ids, oldest first: each user's last `length` searches strictly before ts; null: none."""
        end = np.searchsorted(self._key, _key(user, ts))
        start = np.maximum(np.searchsorted(self._key, _key(user, 0)), end - length)
        count = end - start
        row = np.repeat(np.arange(len(user)), count)
        place = np.arange(len(row)) + np.repeat(start - (np.cumsum(count) - count), count)
        found = pl.DataFrame({"row": row, "id": self._ids.gather(self._query[place])})
        lists = found.group_by("row", maintain_order=True).agg("id")
        rows = pl.DataFrame({"row": np.arange(len(user))})
        return rows.join(lists, on="row", how="left", maintain_order="left")["id"]


def _key(user: np.ndarray, ts: np.ndarray | int) -> np.ndarray:
    """Numbers that order searches by user, then time."""
    return user.astype(np.int64) * _SPAN + ts
