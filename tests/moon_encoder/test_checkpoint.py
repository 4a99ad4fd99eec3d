"""A saved encoder: the same vectors from its folder alone, replaced in one step, damage named in one line."""

import json
import shutil

import pytest
import torch

from data.errors import InputError
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder, save_encoder
from tests.moon_encoder.conftest import contents, dual_config, write_text, write_vision


def test_it_comes_back_bit_for_bit_without_the_checkpoints_it_came_from(dual, towers, tmp_path):
    own = {"vision": str(write_vision(tmp_path / "v")), "text": str(write_text(tmp_path / "t"))}
    encoder = build_encoder(dual_config(own, vision={"trainable_from": 2}, text={"trainable_from": 1}))
    encoder.load_state_dict(dual.state_dict())
    info = save_encoder(encoder, tmp_path / "saved", "small", "posttrain-a", {"steps": 3})
    for folder in own.values():
        shutil.rmtree(folder)
    again = load_encoder(tmp_path / "saved")
    batch = dual.prepare(contents())
    with torch.no_grad():
        assert torch.equal(again(again.prepare(contents())), dual(batch))
    assert not again.training
    assert encoder_info(tmp_path / "saved") == info and info.facts == {"steps": 3} and info.stage == "posttrain-a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_the_fingerprint_is_of_the_content(dual, tmp_path):
    first, same = (save_encoder(dual, tmp_path / name, name, "initial") for name in ("a", "b"))
    with torch.no_grad():
        next(p for n, p in dual.named_parameters() if "residual" in n).add_(1)
    other = save_encoder(dual, tmp_path / "a", "a", "initial")  # replaces the folder
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert encoder_info(tmp_path / "a") == other


def test_the_seed_draws_what_no_checkpoint_has(towers):
    a, b, c = (build_encoder(dual_config(towers), seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {name for name in a if not torch.equal(a[name], c[name])}


def test_damage_is_one_line(dual, tmp_path):
    save_encoder(dual, tmp_path / "e", "small", "initial")
    with pytest.raises(InputError, match=r"encoder\.json is missing"):
        load_encoder(tmp_path)
    weights = tmp_path / "e" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load_encoder(tmp_path / "e")
    tree = json.loads((tmp_path / "e" / "encoder.json").read_text())
    (tmp_path / "e" / "encoder.json").write_text(json.dumps(tree | {"config": tree["config"] | {"dim": -1}}))
    with pytest.raises(InputError, match="greater than or equal to 1"):
        load_encoder(tmp_path / "e")
    (tmp_path / "e" / "encoder.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        encoder_info(tmp_path / "e")
