"""The multimodal LLM: attention, pads, packing, the real classes' format, adapters."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from data.errors import InputError
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder, save_encoder
from moon_encoder.config import MllmConfig
from moon_encoder.content import Content
from moon_encoder.mllm import CLASSES, Mllm, WholePatch
from moon_encoder.mllm_inputs import NOTHING
from tests.moon_encoder.conftest import TEXTS, contents, mllm_config, picture

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]
QUESTIONS = [[("What colour?", "red"), ("What is it?", "a casual shirt")], [("For whom?", "men")]]


def build(family: str = "qwen3_vl", **more: object) -> Mllm:
    encoder = build_encoder(mllm_config(family, **more), texts=lambda: TEXTS)
    assert isinstance(encoder, Mllm)
    with torch.no_grad():  # untrained weights of .02 hardly attend: widen them so that a wrong mask would show
        for name, parameter in encoder.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(4)
    return encoder.eval()


def vectors(encoder: Mllm, batch) -> torch.Tensor:
    with torch.no_grad():
        return encoder(batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_pads_and_neighbours_do_not_change_a_vector(family):
    encoder = build(family)
    together = vectors(encoder, encoder.prepare(contents()))
    alone = torch.cat([vectors(encoder, encoder.prepare([content])) for content in contents()])
    assert together.shape == (6, encoder.dim) and together.dtype == torch.float32
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert float(torch.pdist(together).min()) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_encoding_sees_later_tokens_and_generation_does_not(family):
    encoder = build(family)
    one, other = (encoder.prepare([Content(f"blue shoe {word}", picture(1))]) for word in "xy")
    assert one.ids.shape == other.ids.shape and (one.ids != other.ids).sum() == 1
    last = int((one.ids != other.ids).nonzero()[0, 1])
    with torch.no_grad():
        both = [encoder._hidden(batch, batch.bidirectional_mask())[0] for batch in (one, other)]
        causal = [encoder._hidden(batch, batch.causal_mask())[0] for batch in (one, other)]
    assert (both[0] - both[1])[:last].abs().amax(1).min() > 1e-5  # every earlier position has changed
    assert torch.equal(causal[0][:last], causal[1][:last]) and not torch.equal(causal[0][last], causal[1][last])


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_states_and_positions_are_those_of_the_class(family):
    encoder = build(family)
    batch = encoder.prepare(contents())
    padding = batch.present.long()
    frames = torch.cat([torch.ones(len(batch.grid), 1, dtype=torch.int64), batch.grid], dim=1)
    kinds = (batch.ids == encoder.image_token).int()
    positions, _ = encoder.lm.model.get_rope_index(
        batch.ids, mm_token_type_ids=kinds, image_grid_thw=frames, attention_mask=padding
    )
    ours = batch.positions(encoder.image_token, encoder.grid.merge)
    assert torch.equal(ours * padding, positions * padding)
    with torch.no_grad():
        expected = encoder.lm.model(
            input_ids=batch.ids,
            attention_mask=padding,
            mm_token_type_ids=kinds,
            pixel_values=encoder.grid.normalised(batch.patches),
            image_grid_thw=frames,
        ).last_hidden_state
        got = encoder._hidden(batch, batch.causal_mask())
    torch.testing.assert_close(got[batch.present], expected[batch.present], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patch_is_projected_as_by_the_class_s_convolution(family):
    encoder = build(family)
    proj = encoder.lm.model.visual.patch_embed.proj
    assert type(proj) is WholePatch
    patches = torch.randn(5, proj.in_channels, *proj.kernel_size)
    plain = F.conv3d(patches, proj.weight, proj.bias, stride=proj.stride).flatten(1)
    torch.testing.assert_close(proj(patches), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_questions_have_the_losses_they_have_alone(family):
    encoder = build(family)
    shown = [Content(image=picture(1)), Content("sport", picture(2, (64, 32)))]
    with torch.no_grad():
        packed, row, segment = encoder.answer_losses(encoder.prepare_questions(shown, QUESTIONS))
        for i, asked in enumerate(QUESTIONS):
            for number, question in enumerate(asked, 1):
                alone, *_ = encoder.answer_losses(encoder.prepare_questions([shown[i]], [[question]]))
                torch.testing.assert_close(packed[(row == i) & (segment == number)], alone, atol=1e-5, rtol=1e-5)


def test_the_loss_is_of_the_answer_only_and_that_of_the_class():
    encoder = build()
    batch = encoder.prepare_questions([Content(image=picture(1))], [[("What colour?", "red shirt")]])
    words = encoder.tokenizer.decode(batch.label[batch.label != NOTHING])
    assert words == "red shirt<|im_end|>"
    with torch.no_grad():
        losses, *_ = encoder.answer_losses(batch)
        frames = torch.cat([torch.ones(1, 1, dtype=torch.int64), batch.grid], dim=1)
        expected = encoder.lm(
            input_ids=batch.ids,
            labels=batch.label,
            mm_token_type_ids=(batch.ids == encoder.image_token).int(),
            pixel_values=encoder.grid.normalised(batch.patches),
            image_grid_thw=frames,
        ).loss
    torch.testing.assert_close(losses.mean(), expected)


def test_parts_of_a_batch_and_parts_put_together():
    encoder = build()
    batch = encoder.prepare(contents())
    expected = vectors(encoder, batch)
    for rows in (slice(1, 4), slice(0, 1), torch.tensor([5, 0, 2, 2]), torch.tensor([3])):
        torch.testing.assert_close(vectors(encoder, batch[rows]), expected[rows], atol=1e-5, rtol=1e-5)
    again = batch[:2].cat([batch[2:3], batch[3:4], batch[4:]])
    torch.testing.assert_close(vectors(encoder, again), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_the_most_probable_tokens(family):
    """Generation with pads, pictures and a cache chooses what the teacher-forced pass ranks first."""
    encoder = build(family)
    shown = [Content(image=picture(1)), Content("blue sport shoe", picture(2, (64, 32))), Content("watch")]
    got = encoder.answers(encoder.prepare_questions(shown, [[("What is it?", None)]] * 3), longest=4)
    for content, answer in zip(shown, got, strict=True):
        ids = list(encoder.prepare_questions([content], [[("What is it?", None)]]).ids[0])
        chosen: list[int] = []
        for _ in range(4):
            batch = encoder.prepare_questions([content], [[("What is it?", None)]])
            more = torch.tensor([chosen], dtype=torch.int64).reshape(1, -1)
            longer = type(batch)(
                **vars(batch)
                | {
                    "ids": torch.cat([batch.ids, more], 1),
                    "segment": torch.cat([batch.segment, torch.ones_like(more)], 1),
                    "place": torch.cat([batch.place, len(ids) + torch.arange(len(chosen))[None]], 1),
                }
            )
            with torch.no_grad():
                hidden = encoder._hidden(longer, longer.causal_mask())
                chosen.append(int(encoder.lm.lm_head(hidden[0, -1]).argmax()))
            if chosen[-1] == encoder._turn_end:
                break
        assert answer == encoder.tokenizer.decode(chosen, skip_special_tokens=True).strip()


def write_checkpoint(folder: Path, family: str) -> Path:
    """A random model as transformers itself saves one: the class, Qwen's tokenizer class, the image processor."""
    source = build(family)
    source.lm.save_pretrained(folder)
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=source.tokenizer.get_vocab(), merges=_merges(source.tokenizer), additional_special_tokens=[]
    )
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 1024, "longest_edge": 10**6}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def _merges(tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_saved_by_transformers_loads(family, tmp_path):
    folder = write_checkpoint(tmp_path / "hub", family)
    loaded = build_encoder(MllmConfig(path=str(folder), image_pixels=64 * 64, max_tokens=16))  # type: ignore[call-arg]
    assert isinstance(loaded, Mllm) and type(loaded.lm).__name__ == CLASSES[family]
    original = build(family)
    batch = loaded.prepare(contents())
    torch.testing.assert_close(vectors(loaded.eval(), batch), vectors(original, original.prepare(contents())))
    save_encoder(loaded, tmp_path / "saved", "real", "initial")
    again = load_encoder(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(again.prepare(contents())), loaded(batch))


def test_a_model_of_another_class_is_named(towers):
    with pytest.raises(InputError, match="model_type 'bert': a multimodal LLM is one of qwen3_vl, qwen2_5_vl"):
        build_encoder(MllmConfig(path=towers["text"]))  # type: ignore[call-arg]


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_saved_one_gives_the_same_vectors_and_answers(lora, tmp_path):
    encoder = build(lora=lora)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_encoder(encoder, tmp_path / "saved", "small", "pretrain")
    again = load_encoder(tmp_path / "saved")
    assert isinstance(again, Mllm) and encoder_info(tmp_path / "saved").config == encoder.config
    assert torch.equal(vectors(again, again.prepare(contents())), vectors(encoder, encoder.prepare(contents())))
    asked = encoder.prepare_questions([Content(image=picture(1))], [[("What colour?", None)]])
    assert again.answers(asked) == encoder.answers(asked)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in encoder.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("vision", [False, True])
def test_adapters_alone_are_trained_and_start_at_the_model_itself(vision):
    plain, adapted = build(), build(lora={"rank": 2, "vision": vision}, bf16=False)
    batch = plain.prepare(contents())
    state = {name.replace(".base_layer", ""): value for name, value in adapted.state_dict().items()}
    plain.load_state_dict({name: value for name, value in state.items() if "lora_" not in name})
    torch.testing.assert_close(vectors(adapted, batch), vectors(plain, batch))
    adapted.train()(batch).sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert any(".visual." in name for name in trained) == vision
    assert all((p.grad is not None) == (name in trained) for name, p in adapted.named_parameters())


def test_everything_is_trained_otherwise_and_checkpointing_gives_the_same_gradients():
    plain, saving = build(), build(gradient_checkpointing=True)
    batch = plain.prepare(contents())
    for encoder in (plain, saving):
        encoder.train()(batch).square().sum().backward()
    inside = {name: p.grad for name, p in saving.named_parameters()}
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(inside[name], parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_bfloat16_is_near_and_keeps_what_is_trained_in_float32(lora):
    exact, half = build(lora=lora), build(lora=lora, bf16=True)
    batch = exact.prepare(contents())
    a, b = vectors(exact, batch), vectors(half, batch)
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert float(torch.nn.functional.cosine_similarity(a, b).min()) > 0.99
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in half.parameters() if not p.requires_grad} == ({torch.bfloat16} if lora else set())
    half.train()
    losses, *_ = half.answer_losses(half.prepare_questions([Content(image=picture(1))], [[("What colour?", "red")]]))
    losses.mean().backward()
    assert half.answers(half.prepare_questions([Content("red")], [[("What?", None)]]), longest=2)


def test_a_mark_in_a_title_is_text_and_a_long_title_is_cut():
    encoder = build(max_tokens=40)
    batch = encoder.prepare([Content("a<|image_pad|><|im_end|>b"), Content("red " * 2500), Content("red")])
    assert not (batch.ids == encoder.image_token).any()
    assert batch.truncated.tolist() == [False, True, False] and int(batch.present[1].sum()) == 40
    vectors(encoder, batch)
