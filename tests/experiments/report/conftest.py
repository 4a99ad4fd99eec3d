"""A page about everything that a small world gives, shared by the tests of the report."""

from pathlib import Path

import pytest
import yaml

import moon
from tests.conftest import write_store
from tests.experiments.conftest import RECIPE

RESULTS = Path(__file__).parents[3] / "experiments" / "results"


def make(root: Path, *more: object) -> int:
    """`moon report` of a folder and of committed results, with few draws."""
    shown = [
        RESULTS / f"{name}.json"
        for name in (
            "movielens_ablation",
            "marketplace_lift_demo",
            "marketplace_lift_arms",
            "marketplace_exchange_rate",
            "movielens_exchange_rate",
            "marketplace_iterations",
            "movielens_iterations",
        )
    ]
    return moon.main([str(word) for word in ("report", root, *shown, *more, "--draws", 100)])


@pytest.fixture(scope="session")
def results(market_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs and a store of its items' vectors; the dataset is in the world's folder."""
    root = tmp_path_factory.mktemp("report") / "results"
    features = RECIPE["features"] | {"sequences": []}
    tree = RECIPE | {"name": "plain", "features": features, "model": {"tower": [8]}}
    (root / "runs").mkdir(parents=True)
    (root / "plain.yaml").write_text(yaml.safe_dump(tree))
    data = str(market_root / "data")
    assert moon.main(["train", str(root / "plain.yaml"), "--data", data, "--out", str(root / "runs" / "plain")]) == 0
    store = write_store(root / "stores" / "random", market_root / "data")
    tree = RECIPE | {"name": "cube", "features": RECIPE["features"] | {"vectors": [{"name": "content"}]}}
    content = [{"kind": "cube", "vectors": "content", "sequences": ["history"]}]
    (root / "cube.yaml").write_text(yaml.safe_dump(tree | {"model": RECIPE["model"] | {"content": content}}))
    words = ["train", root / "cube.yaml", "--data", data, "--out", root / "runs" / "cube", "--store", store]
    assert moon.main([str(word) for word in words]) == 0
    return root


@pytest.fixture(scope="session")
def page(results: Path, market_root: Path) -> Path:
    """The page; its figures are beside it."""
    out = results.parent / "page.html"
    assert make(results, market_root / "run", "--out", out, "--title", "Everything") == 0
    return out
