"""A multimodal LLM from scratch: the real classes at sizes of one's own, with a byte-level BPE tokenizer."""

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from moon_encoder.config import MllmShape
from moon_encoder.patches import PatchGrid

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
MARKS = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO)
ROLES, ROLE_COUNT = ("user\n", "assistant\n"), 1000  # of every dialogue: each a token
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al., arXiv 1508.07909) with the marks of the Qwen-VL classes."""
    from tokenizers import Regex

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(chain(texts, ROLES * ROLE_COUNT), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=rust, pad_token=END_OF_TEXT, eos_token=TURN_END)


def model_config(shape: MllmShape, tokenizer: PreTrainedTokenizerFast, image_pixels: int, merge: int = 2) -> Any:
    """The classes' configuration at these sizes; `merge`: positions a side of the vision tower in a visual token."""
    import transformers

    head = shape.hidden // shape.heads
    marks = {"image": IMAGE, "video": VIDEO, "vision_start": VISION_START, "vision_end": VISION_END}
    ids: dict[str, Any] = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate or 2 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision: dict[str, Any] = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "num_heads": shape.vision_heads,
        "intermediate_size": 4 * shape.vision_hidden,
        "patch_size": shape.patch,
        "spatial_merge_size": merge,
        "out_hidden_size": shape.hidden,
    }
    if shape.family == "qwen3_vl":
        text |= {"head_dim": head, "rope_parameters": _rope(_thirds(head // 2, 5 / 16), interleaved=True)}
        side = max(round(math.sqrt(image_pixels) / shape.patch), 2)
        depth = sorted({math.ceil(shape.vision_layers * share) - 1 for share in (0.3, 0.6, 0.9)})
        vision |= {"num_position_embeddings": side**2, "deepstack_visual_indexes": depth[-shape.layers :]}
        return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    text |= {"rope_parameters": _rope(_thirds(head // 2, 3 / 8), interleaved=False), "tie_word_embeddings": True}
    full = [i for i in range(shape.vision_layers) if i % 4 == 3 or i == shape.vision_layers - 1]
    vision |= {"window_size": 8 * shape.patch, "fullatt_block_indexes": full}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def patch_grid(shape: MllmShape, image_pixels: int) -> PatchGrid:
    """How pictures are cut."""
    return PatchGrid(patch=shape.patch, least=(2 * shape.patch) ** 2, most=image_pixels)


def _rope(section: list[int], interleaved: bool) -> dict[str, Any]:
    found = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section}
    return found | ({"mrope_interleaved": True} if interleaved else {})


def _thirds(pairs: int, share: float) -> list[int]:
    """Rotary pairs for time, height and width; the last two get `share` of them each, as in the published models."""
    spatial = max(int(pairs * share), 1)
    return [pairs - 2 * spatial, spatial, spatial]
