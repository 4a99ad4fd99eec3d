"""A tiny recipe on the small log, and the ranks of this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from data.dataset import Dataset
from features.ranks import Ranks, process_group
from tests.conftest import write_store

TINY = {
    "name": "tiny",
    "seed": 0,
    "features": {
        "default_table": {"dim": 8},
        "features": [
            {"kind": "id", "name": "user", "column": "user"},
            {"kind": "id", "name": "item", "column": "item"},
            {"kind": "ids", "name": "genres", "column": "item.genres"},
            {"kind": "dense", "name": "seen", "column": "item_impressions", "transform": "log1p"},
        ],
        "sequences": [
            {
                "name": "rated",
                "length": 20,
                "fields": ["item", "genres"],
                "side": [{"kind": "bucket", "name": "rating", "column": "rating", "boundaries": [2, 3, 4]}],
            }
        ],
    },
    "model": {"sequences": {"rated": {"kind": "din", "hidden": [8], "softmax": True}}, "tower": [16]},
    "train": {"batch_size": 128, "epochs": 2, "tables": {"lr": 0.1}, "log_every": 1, "threads": 1},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """This process as the only rank."""
    with process_group() as found:
        yield found


@dataclass(frozen=True)
class Exported:
    """A trained run and its package, compiled (read only). data: the dataset. store: the item vectors."""

    run: Path
    package: Path
    data: Path
    store: Path


@pytest.fixture(scope="session")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All mechanisms together, trained briefly and exported in every format; the one compilation of the tests."""
    from ranker.exporting.export import Choice, export
    from ranker.run_folder import RunFolder
    from ranker.train import train
    from tests.ranker.exporting.recipes import EVERYTHING, recipe

    root = tmp_path_factory.mktemp("exported")
    store = write_store(root / "store", small)
    run, dataset = root / "run", Dataset(small)
    with process_group() as ranks:
        train(recipe(*EVERYTHING), dataset, run, ranks, stores={"image": store})
        export(RunFolder(run), dataset, root / "package", ranks, Choice())
    return Exported(run, root / "package", small, store)
