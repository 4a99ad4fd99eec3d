"""Small encoders and pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data.marketplace.config import Market
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular
from moon_encoder.checkpoint import build_encoder
from moon_encoder.config import DualTowerConfig, MllmConfig
from moon_encoder.content import Content
from moon_encoder.encoder import Encoder

MARKS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = [*MARKS, "red", "blue", "green", "shirt", "shoe", "watch", "men", "women", "casual", "sport"]


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    """A picture of smooth noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def contents() -> list[Content]:
    """Text only, picture only, both, in turns; lengths differ."""
    return [
        Content("red shirt"),
        Content(image=picture(1)),
        Content("blue casual sport shoe men", picture(2)),
        Content("watch"),
        Content(None, picture(3, (30, 30))),
        Content("green women", picture(4, (64, 32))),
    ]


def write_vision(folder: Path, size: int = 32) -> Path:
    """A random ViT in the format of transformers."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=size, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(folder)
    processor = '{"do_resize": true, "size": {"height": %d, "width": %d}, "resample": 2, "do_rescale": true, '
    processor += '"do_normalize": true, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}'
    (folder / "preprocessor_config.json").write_text(processor % (size, size))
    return folder


def write_text(folder: Path) -> Path:
    """A random BERT with a tokenizer of a few words."""
    torch.manual_seed(1)
    rust = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=rust, **marks).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=128,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a random vision and a random text model."""
    root = tmp_path_factory.mktemp("towers")
    return {"vision": str(write_vision(root / "vision")), "text": str(write_text(root / "text"))}


def dual_config(towers: dict[str, str], **more: object) -> DualTowerConfig:
    """A dual tower of 16 dims on the random models; `vision` and `text` add to those fields."""
    tree = {
        "vision": {"path": towers["vision"], **more.pop("vision", {})},  # type: ignore[dict-item]
        "text": {"path": towers["text"], "max_tokens": 8, **more.pop("text", {})},  # type: ignore[dict-item]
        "matryoshka": [4, 8],
        "hidden": 8,
        **more,
    }
    return DualTowerConfig.model_validate(tree)


@pytest.fixture
def dual(towers: dict[str, str]) -> Encoder:
    """A small dual tower whose last blocks are trained, its projections no longer at their start."""
    encoder = build_encoder(dual_config(towers, vision={"trainable_from": 2}, text={"trainable_from": 1}))
    torch.manual_seed(2)
    for name, parameter in encoder.named_parameters():
        if "residual" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


TEXTS = ["red casual shirt for men", "blue sport shoe", "green watch", "What colour?", "What is it?"] * 5


def mllm_config(family: str = "qwen3_vl", **more: object) -> MllmConfig:
    """A multimodal LLM of 32 dims, from scratch."""
    shape = {
        "family": family,
        "vocabulary": 320,
        "hidden": 32,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "intermediate": 48,
        "vision_hidden": 16,
        "vision_layers": 2,
        "vision_heads": 2,
    }
    return MllmConfig.model_validate(
        {"scratch": shape, "matryoshka": [8, 16], "image_pixels": 64 * 64, "max_tokens": 16, **more}
    )


@pytest.fixture
def mllm() -> Encoder:
    """A tiny multimodal LLM with random weights."""
    return build_encoder(mllm_config(), texts=lambda: TEXTS).eval()


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared catalogue of 240 drawn products (read only)."""
    from tests.moon_encoder.products import prepare_products

    return prepare_products(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, products: Path) -> Path:
    """A finished run of stage 1 of the tiny multimodal LLM on the drawn products; the encoder is in its encoder/."""
    from data.config import parse_config
    from data.dataset import Dataset
    from features.ranks import process_group
    from moon_encoder.pretrain import pretrain
    from moon_encoder.pretrain_config import Pretrain
    from tests.moon_encoder.products import pretrain_recipe

    out = tmp_path_factory.mktemp("pretrained") / "run"
    with process_group() as ranks:
        pretrain(parse_config(pretrain_recipe(), Pretrain, "tiny"), Dataset(products), out, ranks, False)
    return out


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small marketplace, prepared (read only): searches by text and picture, clicks, carts and orders."""
    root = tmp_path_factory.mktemp("market")
    world = Market(days=6, items=150, users=80, sessions_per_day=150, image_size=24, cart_rate=0.6, order_rate=0.6)
    simulate(world, root / "raw")
    prepare(Tabular(root / "raw", root / "raw" / "columns.yaml"), root / "dataset")
    return root / "dataset"
