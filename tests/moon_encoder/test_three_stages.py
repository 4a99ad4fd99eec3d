"""The multimodal LLM through all three stages on the command line: pretrained, broad, refined; then its vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import moon
from data.dataset import Dataset
from moon_encoder.checkpoint import encoder_info, load_encoder
from moon_encoder.content import Content
from moon_encoder.held_out import TEST, HeldOut
from tests.moon_encoder.products import drawing

HELD_OUT = {"key": "title", "valid": 0.1, "test": 0.2}  # as in stage 1: a title is new to all stages or to none
A = {
    "name": "broad",
    "held_out": HELD_OUT,
    "mix": [
        {"query": "title", "item": "image", "weight": 0.7, "sources": ["augmented"]},
        {"query": "image", "item": "title+image", "weight": 0.3, "sources": ["augmented"]},
    ],
    "valid": [{"query": "title", "item": "image", "source": "augmented"}],
    "objective": {"matryoshka": {32: 1.0, 8: 1.0}},
    "train": {
        "batch_size": 32, "epochs": 3, "steps_per_epoch": 15, "log_every": 1, "threads": 1,
        "optimizer": {"lr": 0.003, "warmup_steps": 5},
    },
}  # fmt: skip
B = {**A, "name": "refined", "stage": "b", "cleaning": {"entities": 1}, "negatives": {"hard": 1, "queue": 2}}


@pytest.fixture(scope="module")
def refined(pretrained: Path, products: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Finished runs of stages A and B from the pretrained encoder."""
    root = tmp_path_factory.mktemp("stages")
    start = pretrained / "encoder"
    for name, tree in (("a", A), ("b", B)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        words = ["encoder", "posttrain", str(root / f"{name}.yaml"), "--data", str(products), "--init", str(start)]
        assert moon.main([*words, "--out", str(root / name)]) == 0
        start = root / name / "encoder"
    return root / "a", root / "b"


def test_each_stage_starts_where_the_one_before_ended_and_its_loss_falls(pretrained, refined):
    before = encoder_info(pretrained / "encoder")
    for run, stage in zip(refined, ("posttrain-a", "posttrain-b"), strict=True):
        info = encoder_info(run / "encoder")
        assert info.stage == stage and info.config == before.config
        assert stage == "posttrain-b" or info.fingerprint != before.fingerprint  # b keeps a's where it is no better
        assert json.loads((run / "meta.json").read_text())["facts"]["init"] == before.fingerprint
        before = info
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert len(losses) == 45
        # b's queue is full from the third step on: before, the loss is over fewer negatives and cannot be compared
        filled = losses[3:] if stage == "posttrain-b" else losses
        assert np.mean(filled[-9:]) < 0.9 * np.mean(filled[:9]), (stage, losses)


def test_a_title_finds_the_pictures_of_new_products_that_look_so(pretrained, refined, products):
    """Titles that no stage has seen, against drawings of all kinds: colour and shape come first."""
    items = Dataset(products).items().collect()
    test = np.flatnonzero(HeldOut.model_validate(HELD_OUT).parts(items) == TEST)[:40].tolist()
    kinds = [(c, k) for c in ("Red", "Blue", "Green", "Yellow") for k in ("Shirts", "Watches", "Shoes")]
    right = [kinds.index((items["base_colour"][i], items["article_type"][i])) for i in test]
    found = {}
    for name, run in (("pretrained", pretrained), ("refined", refined[1])):
        encoder = load_encoder(run / "encoder")
        with torch.no_grad():
            titles = encoder(encoder.prepare([Content(items["title"][i]) for i in test]))
            images = encoder(encoder.prepare([Content(image=drawing(c, k, 990)) for c, k in kinds]))
        unit = torch.nn.functional.normalize
        found[name] = float(((unit(titles) @ unit(images).T).argmax(1) == torch.tensor(right)).float().mean())
    assert found["refined"] > max(0.5, found["pretrained"] + 0.2), found  # by chance one in twelve
