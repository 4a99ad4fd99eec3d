"""A small world, prepared, with one trained ranker, shared by the tests of lift and of off-policy estimates."""

from pathlib import Path

import pytest
import yaml

import moon
from data.config import load_config, parse_config
from data.marketplace.config import Market
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular
from experiments.lift.config import LiftConfig
from experiments.lift.world import World, open_world

MARKET = {"days": 4, "later_days": 3, "items": 400, "users": 150, "sessions_per_day": 300, "image_size": 16}
RECIPE = {
    "name": "tiny",
    "features": {
        "default_table": {"dim": 4},
        "features": [
            {"kind": "id", "name": "item", "column": "item"},
            {"kind": "id", "name": "user", "column": "user"},
            {"kind": "id", "name": "query", "column": "query"},
            {"kind": "bucket", "name": "position", "column": "position", "boundaries": [2, 3, 4, 5, 6]},
            {"kind": "dense", "name": "rate", "column": "item_positives", "per": "item_impressions"},
            {"kind": "dense", "name": "orders", "column": "history.order", "transform": "log1p"},
        ],
        "sequences": [
            {
                "name": "history",
                "length": 10,
                "fields": ["item"],
                "side": [{"kind": "bucket", "name": "age", "column": "age", "boundaries": [3600, 86400]}],
            },
            {"name": "carts", "length": 10, "actions": ["cart"], "fields": ["item"]},
        ],
    },
    "model": {"sequences": {"history": {"kind": "din", "hidden": [4]}, "carts": {"kind": "mean"}}, "tower": [8]},
    "train": {"batch_size": 256, "tables": {"lr": 0.2}, "threads": 1},
}


@pytest.fixture(scope="session")
def market_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with logs/, data/, run/ and lift.yaml (read only)."""
    root = tmp_path_factory.mktemp("lift")
    logs = simulate(parse_config(MARKET, Market, "test"), root / "logs")
    prepare(Tabular(logs, logs / "columns.yaml"), root / "data")
    (root / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    assert moon.main(["train", str(root / "tiny.yaml"), "--data", str(root / "data"), "--out", str(root / "run")]) == 0
    arms = {"tiny": {"run": str(root / "run")}}
    test = {"logs": str(logs), "data": str(root / "data"), "arms": arms, "control": "popular", "days": 2}
    (root / "lift.yaml").write_text(yaml.safe_dump(test | {"aa_replays": 20}))
    return root


@pytest.fixture(scope="session")
def config(market_root: Path) -> LiftConfig:
    """The test of lift.yaml."""
    return load_config(market_root / "lift.yaml", LiftConfig)


@pytest.fixture(scope="session")
def world(market_root: Path) -> World:
    """The world of lift.yaml."""
    return open_world(market_root / "logs", market_root / "data")
