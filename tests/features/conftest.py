"""A prepared toy log with lists, text, nulls and side columns, and a specification that reads all of it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.prepare import prepare
from data.source import Split
from features.spec import FeatureSpec
from tests.data.toy_log import T0, ToyLog, random_rows

SPEC = {
    "default_table": {"dim": 8},
    "tables": {"item": {"dim": 16, "min_count": 70}, "hour": {"hash_rows": 7}},
    "features": [
        {"kind": "id", "name": "user", "column": "user"},
        {"kind": "id", "name": "item", "column": "item"},
        {"kind": "id", "name": "shop", "column": "item.shop"},
        {"kind": "ids", "name": "tags", "column": "item.tags"},
        {"kind": "bucket", "name": "price", "column": "item.price", "boundaries": [1, 2, 3]},
        {"kind": "id", "name": "hour", "column": "hour"},
        {"kind": "bucket", "name": "age", "column": "user.age", "quantiles": 3},
        {"kind": "bucket", "name": "seen", "column": "item_impressions", "quantiles": 4},
        {"kind": "dense", "name": "shown", "column": "item_impressions", "transform": "log1p"},
        {"kind": "dense", "name": "rate", "column": "item_positives", "per": "item_impressions", "transform": "logit"},
        {"kind": "dense", "name": "cost", "column": "item.price", "standardise": False},
        {"kind": "dense", "name": "purchases", "column": "history.buy", "standardise": False},
    ],
    "sequences": [
        {"name": "all", "length": 6, "fields": ["item", "tags"]},
        {
            "name": "bought",
            "length": 3,
            "actions": ["buy"],
            "fields": ["shop"],
            "side": [
                {"kind": "bucket", "name": "weight", "column": "weight", "boundaries": [0.3, 0.6]},
                {"kind": "bucket", "name": "age", "column": "age", "boundaries": [100, 500, 1500]},
                {"kind": "bucket", "name": "position", "column": "position", "boundaries": [2, 3]},
            ],
        },
        {
            "name": "acted",
            "length": 1000,
            "fields": ["item"],
            "side": [{"kind": "id", "name": "action", "column": "action"}],
        },
    ],
}


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared log split by time (read only)."""
    rows = random_rows(2000)
    rng, ids = np.random.default_rng(5), sorted(set(rows["item_id"]))
    catalogue = pl.DataFrame(
        {
            "item_id": ids,
            "shop": [None if i % 7 == 3 else f"shop {i % 4}" for i in range(len(ids))],
            "tags": [[f"t{t}" for t in rng.choice(6, i % 4, replace=False)] for i in range(len(ids))],
            "price": [None if i % 5 == 2 else i % 4 + 0.5 for i in range(len(ids))],
        }
    )
    users = pl.DataFrame({"user_id": sorted(set(rows["user_id"]))}).with_columns(age=pl.int_range(pl.len()) % 5)
    out = tmp_path_factory.mktemp("toy") / "dataset"
    split = Split(rule="temporal", cuts=(T0 + 2400, T0 + 3300))
    prepare(ToyLog(rows, split, catalogue=catalogue, user_table=users), out)
    return out


@pytest.fixture(scope="session")
def dataset(toy: Path) -> Dataset:
    return Dataset(toy)


@pytest.fixture(scope="session")
def spec() -> FeatureSpec:
    return FeatureSpec.model_validate(SPEC)
