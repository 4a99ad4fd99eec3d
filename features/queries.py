"""Queries by index: those of a dataset or of some requests, found by id, and the searches before each sample.

A dataset's index is the row of its query in queries.parquet; the index behind the last one means "no query".
"""

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.queries import open_searches, query_columns, query_id, query_ids
from features.columns import Codes
from features.histories import ranges
from features.spec import SEARCHES
from features.vocabulary import OOV, Vocabulary


class Queries:
    """Distinct queries, ascending by id."""

    def __init__(self, ids: pl.Series) -> None:
        """`ids`: ascending, none null."""
        self.ids = ids

    @property
    def none(self) -> int:
        """The index that means "no query"."""
        return len(self.ids)

    def find(self, ids: pl.Series) -> np.ndarray:
        """Indices (n,) int64 of ids (n,), `none` for null and for an unknown one."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int64)
        at = np.minimum(self.ids.search_sorted(ids).to_numpy(), len(self.ids) - 1).astype(np.int64)
        return np.where((self.ids.gather(at) == ids).fill_null(False).to_numpy(), at, self.none)

    def codes(self, vocabulary: Vocabulary) -> np.ndarray:
        """Table rows (queries + 1,) int32 of the ids, OOV for none."""
        found = vocabulary.encode(np.array(self.ids.to_list(), dtype=np.str_))
        return np.append(found, OOV).astype(np.int32)


class AskedBefore:
    """What each sample asked, and what its user had asked before it, as indices into `queries`."""

    def __init__(self, dataset: Dataset, length: int, queries: Queries | None = None) -> None:
        """`queries`: where samples bring their earlier searches themselves, as lists of ids in a column `searches`.

        Raises InputError if the dataset knows no queries.
        """
        self.length = length
        self.columns = query_columns(list(dataset.meta["sample_columns"]))
        self._searches = open_searches(dataset) if queries is None else None
        self.queries = queries or Queries(query_ids(dataset))

    def asked(self, columns: dict[str, pl.Series]) -> np.ndarray:
        """Index (n,) int64 of each sample's query; `columns`: those of the samples that name it."""
        ids = pl.DataFrame(columns).select(query_id(self.columns)).to_series()
        return self.queries.find(ids)

    def before(self, user: np.ndarray, ts: np.ndarray, given: pl.Series | None) -> Codes:
        """The last `length` searches strictly before each sample, oldest first; `given`: lists of ids, if so."""
        if self._searches is None:
            assert given is not None
            lists = given.list.tail(self.length)
            lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
            flat = lists.drop_nulls().explode(keep_nulls=True, empty_as_null=False).cast(pl.String)
            return Codes(self.queries.find(flat), np.concatenate(([0], np.cumsum(lengths))))
        end = self._searches.before(user, ts)
        lengths = np.minimum(end, self.length)
        at = ranges(np.asarray(self._searches.offsets)[user] + end - lengths, lengths)
        return Codes(np.asarray(self._searches.query[at]), np.concatenate(([0], np.cumsum(lengths))))


def recorded_searches(dataset: Dataset, frame: pl.DataFrame) -> pl.Series:
    """All searches before each sample as a request brings them: lists of ids, oldest first."""
    asked = AskedBefore(dataset, dataset.meta["counts"]["searches"])
    user, ts = (frame[name].to_numpy().astype(np.int64) for name in ("user", "ts"))
    found = asked.before(user, ts, None)
    ids = asked.queries.ids.gather(found.values)
    assert found.offsets is not None
    parts = [ids[int(a) : int(b)] for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    return pl.Series(SEARCHES, parts, dtype=pl.List(pl.String))
