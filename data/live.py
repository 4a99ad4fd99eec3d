"""A prepared dataset that goes on in memory: users who come later, behaviours and searches as they happen."""

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from data.dataset import Behaviors, Dataset
from data.errors import InputError
from data.live_searches import LiveSearches

_SPAN = 1 << 34  # seconds; user * _SPAN + seconds orders events by user, then time


class LiveDataset(Dataset):
    """A dataset on disk whose users' histories grow while it is read.

    The split's samples, the items and the users of the disk stay as they are; `newcomers` follow the users.
    """

    def __init__(self, root: Path | str, since: int, newcomers: pl.DataFrame | None = None) -> None:
        """`since`: Unix seconds from which behaviours are added. `newcomers`: rows like those of users.parquet.

        Raises InputError if behaviours have side columns (what is added has none) or histories are ready-made.
        """
        super().__init__(root)
        given = super().behaviors()
        if given.side or "history_row" in self.meta["sample_columns"]:
            what = f"side columns ({', '.join(given.side)})" if given.side else "ready-made histories"
            raise InputError(f"{self.root}: behaviours with {what} cannot be continued")
        self.since = since
        known = super().users().collect()
        self._users = known if newcomers is None else pl.concat([known, newcomers.select(known.columns)])
        counts = self.meta["counts"] | {"users": len(self._users)}
        self.meta = self.meta | {"counts": counts}
        user = np.repeat(np.arange(len(given.offsets) - 1), np.diff(given.offsets))
        late = np.asarray(given.ts) >= since  # of a log that ended a little after `since`
        self._old = tuple(np.asarray(a)[~late] for a in (user, given.item, given.ts, given.action))
        self._old_counts = np.bincount(self._old[0], minlength=len(self._users))
        self._new = tuple(np.asarray(a)[late] for a in (user, given.item, given.ts, given.action))
        self._merge()

    def users(self) -> pl.LazyFrame:
        """The users of the disk, then the newcomers; row number = user index."""
        return self._users.lazy()

    def behaviors(self) -> Behaviors:
        """All behaviours so far, in memory; later additions are not in it."""
        return self._behaviors

    @cached_property
    def searches(self) -> LiveSearches:
        """All searches so far. Raises InputError if the dataset knows no queries."""
        return LiveSearches(self)

    def add(self, user: np.ndarray, item: np.ndarray, ts: np.ndarray, action: np.ndarray) -> None:
        """Take behaviours in, (n,) each, in any order of time from `since` on."""
        if len(ts) and ts.min() < self.since:
            raise ValueError(f"a behaviour at {ts.min()} is earlier than {self.since}")
        added = (user, item, ts, action)
        self._new = tuple(np.concatenate([old, new]) for old, new in zip(self._new, added, strict=True))
        self._merge()

    def history_ends(self, user: np.ndarray, ts: np.ndarray) -> np.ndarray:
        """(n,) behaviours of each user strictly before each ts (n,) at or after `since`: the samples' `history_end`."""
        before = np.searchsorted(self._keys, user * _SPAN + (ts - self.since))
        return self._old_counts[user] + before - np.searchsorted(self._keys, user * _SPAN)

    def _merge(self) -> None:
        user, item, ts, _ = self._new
        order = np.lexsort((item, ts, user))
        self._new = tuple(array[order] for array in self._new)
        user, item, ts, action = self._new
        self._keys = user * _SPAN + (ts - self.since)
        new_counts = np.bincount(user, minlength=len(self._users))
        offsets = np.concatenate(([0], np.cumsum(self._old_counts + new_counts)))
        old_user = self._old[0]
        # a behaviour moves on by the new behaviours of the users before it (a new one: also by the user's own old ones)
        old_place = np.arange(len(old_user)) + (np.cumsum(new_counts) - new_counts)[old_user]
        new_place = np.arange(len(user)) + np.cumsum(self._old_counts)[user]
        merged = []
        for old, new, dtype in zip(self._old[1:], (item, ts, action), (np.int32, np.int64, np.int8), strict=True):
            array = np.empty(offsets[-1], dtype)
            array[old_place], array[new_place] = old, new
            merged.append(array)
        self._behaviors = Behaviors(None, offsets, *merged, side={})
