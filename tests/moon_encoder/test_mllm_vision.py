"""A pretrained vision model as the eyes of a multimodal LLM: the classes' numbers, kept maps, and all three stages."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml

import moon
from data.errors import InputError
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder, save_encoder
from moon_encoder.content import Content
from moon_encoder.encoder import Encoder
from moon_encoder.mllm import Mllm
from moon_encoder.pretrain import Pretrainer
from tests.moon_encoder.conftest import TEXTS, contents, mllm_config, picture
from tests.moon_encoder.products import pretrain_recipe


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A random MobileNet whose hidden state 12 is a map of 4 x 4 for 64 pixels."""
    folder = tmp_path_factory.mktemp("eyes")
    torch.manual_seed(0)
    config = transformers.MobileNetV1Config(image_size=64, depth_multiplier=0.25)
    model = transformers.MobileNetV1Model(config)
    for weight in model.parameters():
        if weight.ndim == 4:  # as wide as they must be for pictures to differ at the end
            torch.nn.init.kaiming_normal_(weight)
    model.save_pretrained(folder)
    facts = {"do_resize": True, "size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return {"path": str(folder), "hidden_state": 12, "image_size": 64}


@pytest.fixture(params=["qwen3_vl", "qwen2_5_vl"])
def encoder(request, eyes) -> Mllm:
    found = build_encoder(mllm_config(request.param, vision=eyes), texts=lambda: TEXTS)
    assert isinstance(found, Mllm)
    return found.eval()


@torch.no_grad()
def vectors(encoder: Encoder, batch) -> torch.Tensor:
    return encoder(batch)


def test_a_vector_does_not_depend_on_its_batch_nor_on_where_the_map_comes_from(encoder):
    batch = encoder.prepare(contents())
    together = vectors(encoder, batch)
    alone = torch.cat([vectors(encoder, encoder.prepare([content])) for content in contents()])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert float(torch.pdist(together).min()) > 1e-4
    kept = [Content(c.text, encoder.frozen_images([c.image])[0] if c.image else None) for c in contents()]  # type: ignore[index,list-item]
    torch.testing.assert_close(vectors(encoder, encoder.prepare(kept)), together, atol=1e-5, rtol=0)
    for ready in (batch, encoder.prepare(kept)):
        torch.testing.assert_close(
            vectors(encoder, ready[torch.tensor([5, 0, 2])]), together[[5, 0, 2]], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(vectors(encoder, ready[:2].cat([ready[2:]])), together, atol=1e-5, rtol=0)


def test_a_visual_token_is_the_projected_position_of_the_map(encoder):
    seen = encoder.borrowed
    assert seen is not None and seen.side == 4
    pictures = [picture(1), picture(2)]
    with torch.no_grad():
        state = seen.tower.map(seen.tower.pixels(pictures))
        maps = seen.maps(pictures)
    assert maps.shape == (2, 16, state.shape[1]) and torch.equal(maps[1, 6], state[1, :, 1, 2])
    cells = torch.cat([seen.cut(p) for p in pictures])
    torch.testing.assert_close(seen.seen(cells), maps.flatten(0, 1))


def test_states_and_positions_are_those_of_the_class(encoder):
    """The class is given the kept maps where it would be given pixels; its own positions, its own causal mask."""
    batch = encoder.prepare(contents())
    padding, kinds = batch.present.long(), (batch.ids == encoder.image_token).int()
    frames = torch.cat([torch.ones(len(batch.grid), 1, dtype=torch.int64), batch.grid], dim=1)
    positions, _ = encoder.lm.model.get_rope_index(
        batch.ids, mm_token_type_ids=kinds, image_grid_thw=frames, attention_mask=padding
    )
    assert torch.equal(batch.positions(encoder.image_token, 1) * padding, positions * padding)
    with torch.no_grad():
        expected = encoder.lm.model(
            input_ids=batch.ids, attention_mask=padding, mm_token_type_ids=kinds, image_grid_thw=frames,
            pixel_values=encoder.borrowed.seen(batch.patches),  # type: ignore[union-attr]
        ).last_hidden_state  # fmt: skip
        got = encoder._hidden(batch, batch.causal_mask())
    torch.testing.assert_close(got[batch.present], expected[batch.present], atol=1e-5, rtol=1e-5)


def test_it_generates_what_the_teacher_forced_pass_ranks_first(encoder):
    shown = [Content(image=picture(1)), Content("blue sport shoe", picture(2))]
    got = encoder.answers(encoder.prepare_questions(shown, [[("What is it?", None)]] * 2), longest=1)
    batch = encoder.prepare_questions(shown, [[("What is it?", "x")]] * 2)
    row, at = (batch.label != -100).nonzero(as_tuple=True)
    first = [int(at[row == i][0]) for i in range(2)]
    with torch.no_grad():
        logits = encoder.lm.lm_head(encoder._hidden(batch, batch.causal_mask()))
    for i, text in enumerate(got):
        best = encoder.tokenizer.decode(logits[i, first[i] - 1].argmax(), skip_special_tokens=True)
        assert text == best.strip()


def test_the_pretrained_part_is_frozen_and_saved_with_the_rest(encoder, tmp_path):
    before = {k: v.clone() for k, v in encoder.borrowed.tower.state_dict().items()}  # type: ignore[union-attr]
    encoder.train()
    losses, *_ = encoder.answer_losses(encoder.prepare_questions(contents()[:2], [[("What is it?", "a shoe")]] * 2))
    losses.mean().backward()
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(".projector." in name for name in with_gradient) and not any(".tower." in name for name in with_gradient)
    after = encoder.borrowed.tower.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(after[k], v) for k, v in before.items())  # statistics of the batches included
    encoder.eval()
    save_encoder(encoder, tmp_path / "saved", "eyes", "initial")
    again = load_encoder(tmp_path / "saved")
    assert again.frozen_digest() == encoder.frozen_digest() != ""
    torch.testing.assert_close(
        vectors(again, again.prepare(contents())), vectors(encoder, encoder.prepare(contents())), atol=0, rtol=0
    )


def test_a_model_without_a_map_is_refused(towers):
    vision = {"path": towers["vision"], "image_size": 32}
    with pytest.raises(InputError, match="needs a map"):
        build_encoder(mllm_config(vision=vision), texts=lambda: TEXTS)


@pytest.mark.parametrize("more", [{"lora": {"rank": 2}}, {"vision": {"trainable_from": 0}}, {"vision": {"whiten": 4}}])
def test_what_does_not_go_together(more, eyes):
    with pytest.raises(ValueError, match=r"vision|lora"):
        mllm_config(**{"vision": {**eyes, **more.pop("vision", {})}, **more})


def test_all_three_stages_and_a_resumed_pretraining(eyes, products, tmp_path, monkeypatch):
    recipe = pretrain_recipe(epochs=2, checkpoint_every=3)
    recipe["encoder"] |= {"vision": eyes}
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    step = Pretrainer._step

    def interrupted(self: Pretrainer, batch):
        if self.progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    def pretrain(out: str, *more: str) -> int:
        words = ["encoder", "pretrain", str(tmp_path / "pretrain.yaml"), "--data", str(products), *more]
        return moon.main([*words, "--out", str(tmp_path / out), "--cache", str(tmp_path / "cache")])

    assert pretrain("whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr(Pretrainer, "_step", interrupted)
        assert pretrain("parts") == 143
    assert pretrain("parts", "--resume") == 0
    whole, parts = (encoder_info(tmp_path / out / "encoder") for out in ("whole", "parts"))
    assert whole.fingerprint == parts.fingerprint
    assert np.isfinite(json.loads((tmp_path / "whole" / "figures.json").read_text())["test"]["perplexity"])

    start = tmp_path / "whole" / "encoder"
    tree = {
        "name": "broad",
        "mix": [{"query": "title", "item": "image", "weight": 1.0, "sources": ["augmented"]}],
        "valid": [{"query": "title", "item": "image", "source": "augmented", "queries": 20}],
        "held_out": {"key": "title", "valid": 0.1, "test": 0.2},
        "train": {"batch_size": 8, "epochs": 1, "steps_per_epoch": 6, "optimizer": {"lr": 0.003}},
    }
    for name, more in (("a", {}), ("b", {"stage": "b", "cleaning": {"entities": 1}, "negatives": {"queue": 2}})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree | more))
        words = ["encoder", "posttrain", str(tmp_path / f"{name}.yaml"), "--data", str(products), "--init", str(start)]
        assert moon.main([*words, "--out", str(tmp_path / name), "--cache", str(tmp_path / "cache")]) == 0
        start = tmp_path / name / "encoder"
    assert encoder_info(start).stage == "posttrain-b"
    words = ["encoder", "embed", str(start), "--data", str(products), "--store", str(tmp_path / "store")]
    assert moon.main([*words, "--cache", str(tmp_path / "cache")]) == 0
    assert Path(tmp_path / "store").is_dir()
