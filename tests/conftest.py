"""Fixtures that every room's tests share."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from features.store_writer import StoreWriter

if shutil.which("nvidia-smi") is None:  # before anything imports Triton: its kernels then run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the real data sets and checkpoints; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MOON_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder} is no directory (set MOON_SHARED)")
    return folder


def write_ratings(root: Path, users: int = 60, items: int = 80, rows: int = 3000, seed: int = 0) -> Path:
    """A small log in the files of movielens_posters: tastes over genres, ties within a second, untouched items."""
    rng = np.random.default_rng(seed)
    genres = [["Drama"], ["Comedy", "Drama"], ["Action"], [], ["Comedy"]]
    kind = rng.integers(0, len(genres), items)
    taste = rng.normal(size=(users, len(genres)))
    user = rng.integers(0, users, rows)
    item = np.minimum(rng.geometric(3 / items, rows) - 1, items - 6)
    ts = 1_000_000_000 + np.sort(rng.integers(0, 40_000, rows)) * 60 // 7
    noise = rng.normal(size=rows) * 0.7
    rating = np.clip(np.round((3.4 + taste[user, kind[item]] + noise) * 2) / 2, 0.5, 5.0)
    frame = pl.DataFrame({"user_id": user, "item_id": item, "rating": rating, "ts": ts}).cast(
        {"user_id": pl.Int32, "item_id": pl.Int32, "rating": pl.Float32, "ts": pl.Int64}
    )
    frame = frame.unique(["user_id", "item_id"], keep="first", maintain_order=True).sort("ts", "user_id", "item_id")
    root.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(root / "ratings.parquet")
    pl.DataFrame(
        {
            "item_id": pl.Series(np.arange(items), dtype=pl.Int32),
            "title": [f"Film {i}" for i in range(items)],
            "genres": [genres[k] for k in kind],
            "year": pl.Series(1980 + kind * 3 + rng.integers(0, 3, items), dtype=pl.Int16),
            "has_poster": [False] * items,
        }
    ).write_parquet(root / "items.parquet")
    return root


@pytest.fixture(scope="session")
def raw_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files of a small log (read only)."""
    return write_ratings(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def small(raw_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small log, prepared (read only)."""
    out = tmp_path_factory.mktemp("small") / "dataset"
    prepare(MovielensPosters(raw_log), out)
    return out


def write_store(root: Path, dataset: Path, dim: int = 8, missing: int = 5, seed: int = 0) -> Path:
    """A representation store of random unit vectors; every `missing`-th item has none."""
    opened = Dataset(dataset)
    items = opened.meta["counts"]["items"]
    vectors = np.random.default_rng(seed).normal(size=(items, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = np.flatnonzero(np.arange(items) % missing != 0)
    prefixes = (dim // 2,)
    with StoreWriter(
        root, items, dim, encoder="random", matryoshka=prefixes, dataset_fingerprint=opened.fingerprint
    ) as w:
        w.put(known, vectors[known])
        w.publish()
    return root
