"""An axis of multimodal LLMs: every size is pretrained and post-trained, and the law is over the trained weights."""

import json
from pathlib import Path

import pytest
import yaml

import moon
from data.config import parse_config
from experiments.studies.scaling import ScalingConfig
from moon_encoder.checkpoint import encoder_info, load_encoder
from tests.experiments.studies.test_again import studies
from tests.moon_encoder.conftest import mllm_config

AXIS = {
    "name": "size", "title": "weights", "of": "encoder", "values": [8, 16, 24, 32], "pretrain": "pretrain.yaml",
    "init_set": ["encoder.scratch.hidden={x}"], "set": ["train.steps_per_epoch=1"],
}  # fmt: skip


def test_sizes_are_pretrained_and_told_by_their_weights(market_root: Path, tmp_path: Path):
    study = studies(tmp_path)["scaling"] | {"axes": [AXIS], "recipe": None, "queries": 50}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    recipe = {
        "name": "pretrain",
        "encoder": mllm_config(max_tokens=8, matryoshka=[], image_pixels=32 * 32).model_dump(mode="json"),
        "held_out": {"key": "item_id", "valid": 0.1, "test": 0.1},
        "tasks": [{"name": "category", "prompts": ["What is it?"], "answer": "{category}"}],
        "train": {"batch_size": 16, "epochs": 1, "threads": 1},
        "judged": {"valid_items": 4, "test_items": 4},
    }
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "out"
    words = ["study", "scaling", str(tmp_path / "study.yaml"), "--data", str(market_root / "data"), "--out", str(out)]
    assert moon.main(words) == 0
    (axis,) = json.loads((out / "findings.json").read_text())["findings"]["axes"]
    folder = out / "points" / "size" / "24" / "s1" / "encoder"
    trained = sum(p.numel() for p in load_encoder(folder / "pretrain-s1" / "encoder").parameters())
    assert axis["x"] == sorted(axis["x"]) and axis["x"][2] == trained
    assert set(axis["laws"]) == {"image_search_hr@10", "image_search_mrr", "contrastive", "answers"}
    assert all(value < 0 for row in axis["laws"]["answers"]["y"] for value in row)  # log probabilities
    info = encoder_info(folder / "stage-0-s1" / "encoder")
    assert info.stage == "posttrain-a" and info.config.scratch.hidden == 24  # type: ignore[union-attr]


def test_an_axis_starts_in_one_way(tmp_path: Path):
    study = studies(tmp_path)["scaling"] | {"axes": [AXIS | {"init": "init.yaml"}]}
    with pytest.raises(Exception, match="give init or pretrain"):
        parse_config(study, ScalingConfig, "test")
