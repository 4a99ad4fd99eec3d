"""The shipped recipes of encoders: each file is valid by what it is, and a stage's recipe is named for its file."""

from pathlib import Path

import pytest
import yaml

from data.config import load_config
from moon_encoder.initial import NewEncoder
from moon_encoder.posttrain_config import Posttrain
from moon_encoder.pretrain_config import Pretrain

ROOT = Path(__file__).parents[2] / "experiments"
FILES = [
    *(ROOT / "configs" / "encoder").glob("*.yaml"),
    *(ROOT / "configs").glob("*_pretrain.yaml"),
    *(ROOT / "studies" / "encoders").glob("*.yaml"),
]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_a_recipe_of_an_encoder_is_valid(path):
    fields = yaml.safe_load(path.read_text())
    if list(fields) == ["encoder"]:
        load_config(path, NewEncoder)
        return
    stage = load_config(path, Pretrain if "tasks" in fields else Posttrain)
    assert stage.name == path.stem or path.parent == ROOT / "studies" / "encoders"
