"""The towers of a dual tower: any vision and any text model of `transformers`, each to one vector a content.

The blocks before the first trained one run without gradient; their output can be kept (`frozen`) and fed back in
(`trained`), so that an epoch of training costs the trained blocks only. Batch normalisation always uses its saved
statistics. Shapes: n contents, S pixels a side, C channels, D width, L tokens.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor, nn

from data.errors import InputError
from moon_encoder.config import TextTowerConfig, VisionTowerConfig

IMAGE_PROCESSOR = "preprocessor_config.json"


class _Reached(Exception):
    """Ends the run of a vision model where its trained blocks begin."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _Exit(nn.Module):
    """Stands in for the blocks that were taken out."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _Reached(hidden)


class _Tower(nn.Module):
    """What both towers share: modes.

    Attributes:
        dim: width of the vector.
        fixed: modules without a trained weight.
    """

    dim: int
    fixed: list[nn.Module]

    def train(self, mode: bool = True):
        """Frozen parts and batch normalisation stay in evaluation mode."""
        super().train(mode)
        for module in self.fixed:
            module.eval()
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class VisionTower(_Tower):
    """Pictures -> the mean over the positions of one hidden state of a vision model."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: VisionTowerConfig, folder: Path, pretrained: bool) -> None:
        """Load from `folder`; without `pretrained` the weights stay random (they are filled in later)."""
        super().__init__()
        self.config = config
        self.processor = _image_processor(folder)
        self.size = config.image_size or _size(self.processor, folder)
        scale, shift = _normalisation(self.processor)
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)
        model = _load(folder, pretrained)
        self.model = getattr(model, "vision_model", model).eval().to(memory_format=torch.channels_last)
        self.model_config = model.config
        self._cut(folder)

    def _cut(self, folder: Path) -> None:
        """Take the trained blocks out of the model, drop those past the hidden state that is read."""
        with torch.no_grad():
            probe = self.normalised(torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8))
            states = self.model(probe, output_hidden_states=True).hidden_states
        first = self.config.trainable_from
        wanted = self.config.hidden_state + (len(states) if self.config.hidden_state < 0 else 0)
        wanted = max(self.config.pooled) if self.config.pooled else wanted
        if not 0 <= wanted < len(states) or (first is not None and first > wanted):
            raise InputError(
                f"{folder}: hidden_state {self.config.hidden_state} and trainable_from {first} do not fit a model with "
                f"hidden states 0 to {len(states) - 1}; trainable_from must not lie behind hidden_state"
            )
        name, offset = _blocks(self.model, len(states), folder)
        blocks = self.model.get_submodule(name)
        assert isinstance(blocks, nn.ModuleList)
        end = wanted + 1 - offset
        start = end if first is None else max(first - offset, 0)
        self.tail = blocks[start:end]
        parent = self.model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], nn.ModuleList([*blocks[:start], _Exit()]))
        for part in ("pooler", "layernorm", "post_layernorm"):
            if isinstance(getattr(self.model, part, None), nn.Module):
                setattr(self.model, part, None)
        self.frozen_stem = first != 0
        self.model.requires_grad_(not self.frozen_stem)
        self.fixed = [self.model] if self.frozen_stem else []
        with torch.no_grad():
            state = states[wanted]
            same = self._tail(self._head(probe))
        if same.shape != state.shape or not torch.allclose(same, state, atol=1e-4, rtol=1e-3):
            raise InputError(f"{folder}: the blocks of this vision model cannot be run one after the other")
        self._watch(blocks, offset)
        with torch.no_grad():
            vector = self.frozen(torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8))
        self.dim = vector.shape[1] if self.config.pooled else _pooled(state).shape[1]

    def _watch(self, blocks: nn.ModuleList, offset: int) -> None:
        """Keep the pooled hidden states of the run that goes on in a thread."""
        self._seen = threading.local()
        for state, how in (self.config.pooled or {}).items():
            if state < offset:
                raise InputError(f"vision.pooled: no block makes hidden state {state}; the first is {offset}")

            def keep(_module: nn.Module, _inputs: Any, output: Any, state: int = state, how: str = how) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                self._seen.vectors[state] = _gem(hidden) if how == "gem" else _pooled(hidden)

            blocks[state - offset].register_forward_hook(keep)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Decoded pictures (n) -> (n, 3, S, S) uint8, resized as the checkpoint's processor does, not cropped."""
        resample = Image.Resampling(self.processor.get("resample", Image.Resampling.BILINEAR))
        out = np.empty((len(images), self.size, self.size, 3), dtype=np.uint8)
        for row, image in zip(out, images, strict=True):
            row[:] = np.asarray(image.convert("RGB").resize((self.size, self.size), resample))
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def normalised(self, pixels: Tensor) -> Tensor:
        """(n, 3, S, S) uint8 -> float32 as the model was trained on."""
        return pixels.contiguous(memory_format=torch.channels_last) * self.scale + self.shift

    def frozen(self, pixels: Tensor) -> Tensor:
        """(n, 3, S, S) uint8 -> the output of the blocks that are not trained; the vector (n, D) if all are frozen."""
        self._seen.vectors = {}
        hidden = self._head(self.normalised(pixels))
        if self.config.pooled:
            return torch.cat([F.normalize(self._seen.vectors[state], dim=1) for state in self.config.pooled], dim=1)
        return hidden if len(self.tail) else _pooled(hidden)

    def map(self, pixels: Tensor) -> Tensor:
        """(n, 3, S, S) uint8 -> the hidden state of a frozen tower before it is pooled, (n, D, h, w) or (n, L, D)."""
        return self._head(self.normalised(pixels))

    def trained(self, frozen: Tensor) -> Tensor:
        """Output of `frozen` -> vectors (n, D) float32."""
        if frozen.ndim == 4:
            frozen = frozen.contiguous(memory_format=torch.channels_last)  # a fifth faster on a CPU
        return _pooled(self._tail(frozen)) if len(self.tail) else frozen

    def _head(self, values: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_stem):
            try:
                self.model(values)
            except _Reached as reached:
                return reached.hidden
        raise AssertionError("the vision model ran past its exit")

    def _tail(self, hidden: Tensor) -> Tensor:
        for block in self.tail:
            hidden = block(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden

    def digest(self) -> str:
        """Stands for the picture's way through the frozen blocks."""
        how = f"{self.size} {len(self.tail)} {self.config.pooled}"
        return state_digest(how, self.model.state_dict() | {"scale": self.scale, "shift": self.shift})

    def save_assets(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json."""
        self.model_config.save_pretrained(folder)
        (folder / IMAGE_PROCESSOR).write_text(json.dumps(self.processor, indent=1))


class TextTower(_Tower):
    """Texts -> the mean of a text model's last layer over the positions that are no pads."""

    def __init__(self, config: TextTowerConfig, folder: Path, pretrained: bool) -> None:
        """Load from `folder`; without `pretrained` the weights stay random (they are filled in later)."""
        super().__init__()
        self.config = config
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        rust = getattr(self.tokenizer, "backend_tokenizer", None)
        if rust is None:
            raise InputError(f"{folder}: the text tower needs a tokenizer.json")
        rust.no_padding()
        rust.enable_truncation(config.max_tokens)  # set once: a tokenizer that is only read is safe in threads
        self._tokenize = rust.encode_batch
        model = _load(folder, pretrained)
        self.model_config = model.config
        self.model = getattr(model, "text_model", model).eval()
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        most = getattr(self.model.config, "max_position_embeddings", config.max_tokens)
        if config.max_tokens > most:
            raise InputError(f"text.max_tokens {config.max_tokens}: the model in {folder} has {most} positions")
        self.dim = self.model.config.hidden_size
        self._freeze(folder)

    def _freeze(self, folder: Path) -> None:
        first = self.config.trainable_from
        self.fixed = [] if first == 0 else [self.model]
        self.model.requires_grad_(first == 0)
        self.all_frozen = first is None
        if not first:
            return
        layers = self.model.config.num_hidden_layers
        name, _ = _blocks(self.model, layers + 1, folder)
        blocks = self.model.get_submodule(name)
        assert isinstance(blocks, nn.ModuleList)
        if first >= layers:
            raise InputError(f"text.trainable_from {first}: the model in {folder} has layers 0 to {layers - 1}")
        self.fixed = [module for module in self.model.modules() if not list(module.children())]
        for block in blocks[first:]:
            block.requires_grad_(True)
            trained = set(block.modules())
            self.fixed = [module for module in self.fixed if module not in trained]

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Texts (n) -> token ids (n, L) int64 with pads, lengths (n,) int64, whether the text was cut off (n,)."""
        encoded = self._tokenize(list(texts))
        lengths = torch.tensor([len(e.ids) for e in encoded], dtype=torch.int64)
        ids = torch.full((len(encoded), int(lengths.max())), self.pad, dtype=torch.int64)
        for row, e in zip(ids, encoded, strict=True):
            row[: len(e.ids)] = torch.tensor(e.ids)
        return ids, lengths, torch.tensor([bool(e.overflowing) for e in encoded])

    @property
    def pad(self) -> int:
        """Token id of padding."""
        return self.tokenizer.pad_token_id or 0

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (n, L) and lengths (n,) -> vectors (n, D) float32."""
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.all_frozen):
            hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            return (hidden.float() * mask[:, :, None]).sum(1) / lengths[:, None]

    def save_assets(self, folder: Path) -> None:
        """Write config.json and the tokenizer's files."""
        self.model_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def state_digest(how: str, state: Mapping[str, Tensor]) -> str:
    """sha256 over weights and what else decides their output."""
    found = hashlib.sha256(how.encode())
    for name, value in state.items():
        found.update(name.encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()


def _load(folder: Path, pretrained: bool) -> Any:
    transformers.utils.logging.disable_progress_bar()
    try:
        if pretrained:
            return transformers.AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        return transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not a model that can be loaded: {' '.join(str(error).split())[:200]}") from None


def _image_processor(folder: Path) -> dict[str, Any]:
    path = folder / IMAGE_PROCESSOR
    if not path.is_file():
        raise InputError(f"{path}: no such file; a vision tower needs its image processor's normalisation")
    return json.loads(path.read_text())


def _size(processor: dict[str, Any], folder: Path) -> int:
    size = processor.get("size")
    found = size if isinstance(size, int) else (size or {}).get("height") or (size or {}).get("shortest_edge")
    if not found:
        raise InputError(f"{folder / IMAGE_PROCESSOR}: no size; set vision.image_size")
    return found


def _normalisation(processor: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (3,): a value v in 0..255 becomes v * scale + shift."""
    rescale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    mean, std = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    if processor.get("do_normalize", True):
        mean += torch.tensor(processor.get("image_mean", [0.0]), dtype=torch.float64)
        std *= torch.tensor(processor.get("image_std", [1.0]), dtype=torch.float64)
    return (rescale / std).float(), (-mean / std).float()


def _blocks(model: nn.Module, states: int, folder: Path) -> tuple[str, int]:
    """Name of the list of blocks that makes the hidden states, and how many states come before the first block."""
    lists = [(name, len(m)) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    for name, length in sorted(lists, key=lambda found: found[0].count(".")):
        if length in (states, states - 1):
            return name, states - length
    raise InputError(f"{folder}: no list of {states} blocks found in this model; it cannot be a tower")


def _gem(hidden: Tensor) -> Tensor:
    """Cubic mean over the positions of activations that are not negative: as `_pooled`."""
    positive = hidden.float().clamp(min=1e-6).pow(3)
    return (positive.mean((2, 3)) if hidden.ndim == 4 else positive.mean(1)).pow(1 / 3)


def _pooled(hidden: Tensor) -> Tensor:
    """Mean over the positions: (n, D, h, w) or (n, L, D) -> (n, D)."""
    return hidden.mean((2, 3)).float() if hidden.ndim == 4 else hidden.mean(1).float()
