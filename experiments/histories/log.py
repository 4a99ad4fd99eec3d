"""A log of long histories: few users who rated well over a thousand films each, and vectors of the films."""

from pathlib import Path

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from features.store_writer import StoreWriter

ITEMS, CLUSTERS = 12_000, 40  # films; kinds of films, which vectors and genres go by
SECONDS = 3600  # between two ratings of a user


def write_log(root: Path, users: int, behaviours: int, dim: int, seed: int = 0) -> tuple[Path, Path]:
    """Prepare the log under `root`; returns the dataset and a store of `dim` dimensions."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, CLUSTERS, ITEMS)
    (root / "raw").mkdir(parents=True)
    _items(cluster).write_parquet(root / "raw" / "items.parquet")
    _ratings(rng, cluster, users, behaviours).write_parquet(root / "raw" / "ratings.parquet")
    prepare(MovielensPosters(root / "raw"), root / "dataset")
    centres = rng.normal(size=(CLUSTERS, dim))
    vectors = centres[cluster] + rng.normal(size=(ITEMS, dim))
    dataset = Dataset(root / "dataset")
    with StoreWriter(
        root / "store", ITEMS, dim, encoder="drawn", matryoshka=(dim // 2,), dataset_fingerprint=dataset.fingerprint
    ) as writer:
        writer.put(np.arange(ITEMS), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        writer.publish()
    return root / "dataset", root / "store"


def _items(cluster: np.ndarray) -> pl.DataFrame:
    n = len(cluster)
    return pl.DataFrame(
        {
            "item_id": pl.Series(np.arange(n), dtype=pl.Int32),
            "title": [f"Film {i}" for i in range(n)],
            "genres": [[f"Genre {c}"] for c in cluster],
            "year": pl.Series(1960 + cluster, dtype=pl.Int16),
            "has_poster": [False] * n,
        }
    )


def _ratings(rng: np.random.Generator, cluster: np.ndarray, users: int, behaviours: int) -> pl.DataFrame:
    """Every user rates `behaviours` different films, popular ones more often, those of two clusters better."""
    chance = 1 / np.arange(10, ITEMS + 10) ** 0.7
    parts = []
    for user in range(users):
        items = rng.choice(ITEMS, behaviours, replace=False, p=chance / chance.sum())
        liked = np.isin(cluster[items], rng.integers(0, CLUSTERS, CLUSTERS // 2))
        rating = np.clip(np.round((3.0 + liked + rng.normal(size=behaviours)) * 2) / 2, 0.5, 5)
        ts = 1_000_000_000 + user + np.arange(behaviours) * SECONDS
        parts.append(pl.DataFrame({"user_id": np.full(behaviours, user), "item_id": items, "rating": rating, "ts": ts}))
    frame = pl.concat(parts).cast({"user_id": pl.Int32, "item_id": pl.Int32, "rating": pl.Float32, "ts": pl.Int64})
    return frame.sort("ts", "user_id", "item_id")
