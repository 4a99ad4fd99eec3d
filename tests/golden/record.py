"""Writes golden/losses.json: run it after a change that is meant to change losses, and say why in the commit."""

import json
import tempfile
from pathlib import Path

import yaml

from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from tests.conftest import write_ratings
from tests.ranker.conftest import TINY
from tests.ranker.test_train import GOLDEN, GOLDEN_RECIPES, losses, run

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    prepare(MovielensPosters(write_ratings(root / "raw")), root / "dataset")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    found = {}
    for name, changes in GOLDEN_RECIPES.items():
        run(root / "tiny.yaml", root / "dataset", root / name, *changes)
        found[name] = losses(root / name)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
