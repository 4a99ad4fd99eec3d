"""What was searched for: the distinct queries of a log, and every user's searches in order of time.

    queries/queries.parquet              query_id, ascending, picture (bool); row number = query index
    queries/{offsets,query,ts}.npy       CSR: user -> [query index, ts], ordered by (ts, query); one a search

A query is named by the key of its picture if it has one, else by its text. All rows of one user, moment and query
are one search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from data.arrays import open_array
from data.dataset import SPLITS, Dataset
from data.errors import InputError

COLUMNS = ("query_image", "query")


@dataclass(frozen=True)
class Searches:
    """Searches of all users; row r is offsets[r]:offsets[r+1], ordered by time.

    Attributes:
        offsets: (users + 1,) int64. query: (N,) int32 query indices. ts: (N,) int64 Unix seconds.
    """

    offsets: np.ndarray
    query: np.ndarray
    ts: np.ndarray

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct moments, and the searches' (user, moment) as one ascending number."""
        moments, place = np.unique(self.ts, return_inverse=True)
        user = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return moments, user * (len(moments) + 1) + place, np.asarray(self.offsets)

    def before(self, user: np.ndarray, ts: np.ndarray) -> np.ndarray:
        """(n,) searches of each user strictly before each moment."""
        moments, keys, offsets = self._moments
        key = user * (len(moments) + 1) + np.searchsorted(moments, ts)
        return np.searchsorted(keys, key) - offsets[user]


def query_columns(columns: Sequence[str]) -> list[str]:
    """Those of a log's columns that say what was searched for, the one that names a query first."""
    return [name for name in COLUMNS if name in columns]


def query_id(columns: Sequence[str]) -> pl.Expr:
    """The query's id of each row; null where nothing was searched for (an empty text is nothing)."""
    return pl.coalesce(pl.col(name).cast(pl.String).replace("", None) for name in query_columns(columns))


def write_queries(dataset: Dataset) -> int:
    """Write queries/ of a dataset whose samples stand; returns the number of searches.

    Memory: the searches (not the samples).
    """
    columns = list(dataset.meta["sample_columns"])
    wanted = [split for split in SPLITS if dataset.meta["counts"][split]]
    picture = pl.col("query_image").replace("", None).is_not_null() if "query_image" in columns else pl.lit(False)
    named = "user", "ts", query_id(columns).alias("query_id"), picture.alias("picture")
    rows = pl.concat([dataset.samples(split).select(*named) for split in wanted])
    searches = rows.drop_nulls("query_id").unique(["user", "ts", "query_id"]).collect(engine="streaming")
    ids = searches.group_by("query_id").agg(pl.col("picture").any()).sort("query_id")
    searches = searches.with_columns(query=ids["query_id"].search_sorted(searches["query_id"]))
    searches = searches.sort("user", "ts", "query")
    folder = dataset.root / "queries"
    folder.mkdir(exist_ok=True)
    ids.write_parquet(folder / "queries.parquet")
    counts = np.bincount(searches["user"].to_numpy(), minlength=dataset.meta["counts"]["users"])
    np.save(folder / "offsets.npy", np.concatenate(([0], np.cumsum(counts))).astype(np.int64))
    np.save(folder / "query.npy", searches["query"].to_numpy().astype(np.int32))
    np.save(folder / "ts.npy", searches["ts"].to_numpy().astype(np.int64))
    return len(searches)


def query_ids(dataset: Dataset) -> pl.Series:
    """Ids of all queries, ascending.

    Raises InputError if the log does not say what was searched for, or was prepared before queries were kept.
    """
    return pl.read_parquet(_file(dataset, "queries.parquet"))["query_id"]


def pictured(dataset: Dataset) -> np.ndarray:
    """(queries,) bool, whether each is a picture and not a text. Raises InputError as `query_ids` does."""
    return pl.read_parquet(_file(dataset, "queries.parquet"))["picture"].to_numpy()


def open_searches(dataset: Dataset) -> Searches:
    """The searches, memory-mapped. Raises InputError as `query_ids` does."""
    return Searches(*(open_array(_file(dataset, f"{name}.npy")) for name in ("offsets", "query", "ts")))


def _file(dataset: Dataset, name: str) -> Path:
    path = dataset.root / "queries" / name
    if not path.is_file():
        known = query_columns(list(dataset.meta["sample_columns"]))
        reason = "prepare the dataset again" if known else "its log does not say what was searched for"
        raise InputError(f"{path}: no such file; {reason}")
    return path
