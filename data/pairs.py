"""Training pairs of the encoder: what somebody searched for, and what they then did with which item.

    pairs/search.parquet  query_text, query_image (at least one), item, user, ts, action, request_id, split, and the
                          other items of the same request: clicked, shown (not clicked); lists of item indices
    pairs/given.parquet   query_text, query_image (at least one), item: pairs that the source itself names; no time

A behaviour belongs to the user's last search that showed the item at most ATTRIBUTION seconds earlier. It is a pair of
its search's split, unless it happened after that split had ended: then it is known to nobody in time and is dropped.
Where a log has no behaviours, its positive samples are the pairs, with action `positive`.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl

from data.dataset import SPLITS, Dataset
from data.errors import InputError

ATTRIBUTION = 86_400  # seconds
CHUNK_BEHAVIORS = 2_000_000
QUERIES = ("query_text", "query_image")
SEARCH = {
    "query_text": pl.String,
    "query_image": pl.String,
    "item": pl.Int32,
    "user": pl.Int32,
    "ts": pl.Int64,
    "action": pl.String,
    "request_id": pl.Int64,
    "split": pl.String,
    "clicked": pl.List(pl.Int32),
    "shown": pl.List(pl.Int32),
}


@runtime_checkable
class NamesPairs(Protocol):
    """A source that names pairs itself."""

    def pairs(self) -> pl.DataFrame:
        """Columns item_id and query_text or query_image (a key of an image store of role query), or both."""
        ...


def write_pairs(dataset: Dataset, source: object) -> dict[str, int]:
    """Write pairs/ of a dataset whose samples, behaviours and items stand; returns counts by kind and action."""
    folder = dataset.root / "pairs"
    counts: dict[str, int] = {}
    if isinstance(source, NamesPairs):
        given = _given(source.pairs(), dataset)
        if len(given):
            folder.mkdir(exist_ok=True)
            given.write_parquet(folder / "given.parquet")
            counts["given"] = len(given)
    if searched(dataset):
        folder.mkdir(exist_ok=True)
        parts = [part for part in _search(dataset) if len(part)]
        search = pl.concat(parts) if parts else pl.DataFrame(schema=SEARCH)
        search.write_parquet(folder / "search.parquet")
        counts |= {f"search, {action}": n for action, n in sorted(search["action"].value_counts().iter_rows())}
    return counts


def searched(dataset: Dataset) -> bool:
    """Whether the log says what was searched for."""
    return bool({"query", "query_image"} & set(dataset.meta["sample_columns"]))


def _given(pairs: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """Named pairs with item indices. Raises InputError for an item that is not in the catalogue."""
    items = dataset.items().select("item_id").with_row_index("item").collect()
    pairs = pairs.with_columns(pl.col("item_id").cast(items.schema["item_id"]))
    found = pairs.join(items, on="item_id", how="left", maintain_order="left")
    if found["item"].null_count():
        row = int(found["item"].is_null().arg_max() or 0)
        raise InputError(f"pairs row {row}, column 'item_id': {pairs['item_id'][row]!r} is not in the catalogue")
    missing = [pl.lit(None, pl.String).alias(name) for name in QUERIES if name not in found.columns]
    return found.with_columns(missing).select(*QUERIES, pl.col("item").cast(pl.Int32))


def _search(dataset: Dataset) -> Iterator[pl.DataFrame]:
    """The pairs of all users, a bounded number of behaviours at a time."""
    for users in _user_ranges(dataset):
        searches = _searches(dataset, users)
        if dataset.actions:
            done = _acts(dataset, users).join_asof(
                searches.drop("label").sort("ts").rename({"ts": "searched"}),
                left_on="ts",
                right_on="searched",
                by=["user", "item"],
                strategy="backward",
                tolerance=ATTRIBUTION,
                check_sortedness=False,
            )
            done = done.filter(pl.col("split").is_not_null())
        else:
            done = searches.filter(pl.col("label") == 1).with_columns(pl.lit("positive").alias("action"))
        yield _with_rest_of_request(_in_time(dataset, done), searches).select(
            pl.col(name).cast(dtype) for name, dtype in SEARCH.items()
        )


def _user_ranges(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of users with at most CHUNK_BEHAVIORS behaviours (or one user) each."""
    offsets, users = dataset.behaviors().offsets, dataset.meta["counts"]["users"]
    start = 0
    while start < users:
        end = int(np.searchsorted(offsets, offsets[start] + CHUNK_BEHAVIORS, side="right")) - 1
        end = min(max(end, start + 1), users)
        yield start, end
        start = end


def _searches(dataset: Dataset, users: tuple[int, int]) -> pl.DataFrame:
    """Shown items of searches with a text or a picture."""
    columns = set(dataset.meta["sample_columns"])
    query = [
        (pl.col(name) if name in columns else pl.lit(None, pl.String)).alias(alias)
        for name, alias in (("query", "query_text"), ("query_image", "query_image"))
    ]
    request = pl.col("request_id") if "request_id" in columns else pl.lit(None, pl.Int64).alias("request_id")
    parts = [
        dataset.samples(split)
        .filter(pl.col("user").is_between(*users, closed="left"))
        .select("user", "item", "ts", "label", request, *query, pl.lit(split).alias("split"))
        .filter(pl.any_horizontal(pl.col(QUERIES).is_not_null()))
        .collect(engine="streaming")
        for split in SPLITS
        if dataset.meta["counts"][split]
    ]
    return pl.concat(parts)


def _acts(dataset: Dataset, users: tuple[int, int]) -> pl.DataFrame:
    """Behaviours in order of time."""
    behaviors = dataset.behaviors()
    rows = slice(*(int(at) for at in behaviors.offsets[list(users)]))
    each = np.diff(behaviors.offsets[users[0] : users[1] + 1])
    names = pl.Series(dataset.actions)
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(*users, dtype=np.int32), each),
            "item": behaviors.item[rows],
            "ts": behaviors.ts[rows],
            "action": names.gather(behaviors.action[rows].astype(np.int64)),
        }
    ).sort("ts")


def split_ends(dataset: Dataset) -> np.ndarray:
    """(2, users) int64: seconds at which train and valid end for a user; never where nothing follows."""
    users = dataset.meta["counts"]["users"]
    cuts = dataset.meta["split"]["cuts"]
    if cuts:
        return np.repeat(np.array(cuts, dtype=np.int64)[:, None], users, axis=1)
    ends = np.full((2, users), np.iinfo(np.int64).max)
    for row, split in enumerate(SPLITS[1:]):
        if dataset.meta["counts"][split]:
            first = dataset.samples(split).group_by("user").agg(pl.col("ts").min()).collect(engine="streaming")
            ends[row, first["user"].to_numpy()] = first["ts"].to_numpy()
    ends[0] = ends.min(axis=0)
    return ends


def _in_time(dataset: Dataset, pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs that happened before their split ended."""
    ends = split_ends(dataset)
    split = pairs["split"].replace_strict({s: i for i, s in enumerate(SPLITS)}, return_dtype=pl.Int64).to_numpy()
    end = np.full(len(pairs), np.iinfo(np.int64).max)
    early = split < 2
    end[early] = ends[split[early], pairs["user"].to_numpy()[early]]
    return pairs.filter(pl.Series(pairs["ts"].to_numpy() < end))


def _with_rest_of_request(pairs: pl.DataFrame, searches: pl.DataFrame) -> pl.DataFrame:
    """Add the lists `clicked` and `shown`: items of the same request to which this action did not happen."""
    key = ["request_id", "action"]
    acted = pairs.select(*key, "item").unique()
    others = (
        pairs.select(key)
        .unique()
        .drop_nulls()
        .join(searches.select("request_id", "item", "label").unique(["request_id", "item"]), on="request_id")
        .join(acted, on=[*key, "item"], how="anti")
        .sort(*key, "item")
        .group_by(key, maintain_order=True)
        .agg(
            clicked=pl.col("item").filter(pl.col("label") == 1),
            shown=pl.col("item").filter(pl.col("label") == 0),
        )
    )
    return pairs.join(others, on=key, how="left", maintain_order="left")
