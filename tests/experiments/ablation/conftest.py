"""A tiny study with two mechanisms, tuned and run once."""

from pathlib import Path

import pytest
import yaml

import moon
from tests.conftest import write_store
from tests.ranker.conftest import TINY

STUDY = {
    "name": "tiny_study",
    "base": "base.yaml",
    "id_only": "din",
    "mechanisms": [
        {"name": "din", "title": "DIN"},
        {
            "name": "concat",
            "title": "Concatenation",
            "set": {
                "features.vectors": [{"name": "image"}],
                "model.content": [{"kind": "concat", "vectors": "image"}],
            },
        },
    ],
    "matrix": [{"dims": [4]}],
    "seeds": [0, 1],
    "draws": 100,
    "slices": ["cold_items"],
    "tuning": {"trials": 2, "space": {"train.tables.lr": {"low": 0.02, "high": 0.4, "log": True}}, "dim": 4},
}


def write_study(folder: Path, **changes) -> Path:
    """The study's files, with changes of its fields."""
    folder.mkdir(parents=True, exist_ok=True)
    base = TINY | {"train": TINY["train"] | {"epochs": 1}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes))
    return path


@pytest.fixture(scope="session")
def store(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of the small log's items."""
    return write_store(tmp_path_factory.mktemp("store") / "image", small)


@pytest.fixture(scope="session")
def done(small: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The study after `moon study ablation`: the command's words, and the folder of the study."""
    root = tmp_path_factory.mktemp("study")
    out = root / "out"
    words = ["study", "ablation", str(write_study(root)), "--data", str(small), "--store", f"image={store}"]
    words += ["--out", str(out), "--jobs", "2"]
    assert moon.main(words) == 0
    return words, out
