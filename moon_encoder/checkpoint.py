"""A saved encoder of any kind: one folder, published by one rename, without pickle.

    FOLDER/{encoder.json, model.safetensors, assets/}

encoder.json: name, stage, config, dim, matryoshka, fingerprint (sha256 over weights and assets), facts of its training.
The folder needs nothing outside itself: no checkpoint that the config names is read again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from data.config import Config, parse_config
from data.errors import InputError
from data.exchange import exchange
from moon_encoder.config import DualTowerConfig, EncoderConfig, MllmConfig
from moon_encoder.encoder import Encoder


class _Parsed(Config):
    config: EncoderConfig


@dataclass(frozen=True)
class EncoderInfo:
    """What encoder.json says.

    Attributes:
        name: for people, e.g. the recipe's name.
        stage: what made it: initial, pretrain, posttrain-a, ...
        fingerprint: sha256 over weights and assets.
        facts: of its training (dataset fingerprint, steps, figures).
    """

    name: str
    stage: str
    config: DualTowerConfig | MllmConfig
    dim: int
    matryoshka: tuple[int, ...]
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)


def build_encoder(
    config: DualTowerConfig | MllmConfig, seed: int = 0, texts: Callable[[], Iterable[str]] | None = None
) -> Encoder:
    """A new encoder, on the CPU, from the checkpoints that the config names.

    `seed` draws the weights that no checkpoint has; `texts` yields a catalogue's texts, which the tokenizer of an MLLM
    from scratch is trained on. Raises InputError for a checkpoint that is absent or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, DualTowerConfig):
            from moon_encoder.dual_tower import DualTower

            return DualTower.build(config)
        from moon_encoder.mllm import Mllm

        return Mllm.build(config, texts)


def save_encoder(
    encoder: Encoder, folder: Path | str, name: str, stage: str, facts: dict[str, Any] | None = None
) -> EncoderInfo:
    """Write an encoder; an encoder that stands there is replaced in one step."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    (part / "assets").mkdir(parents=True)
    encoder.save_assets(part / "assets")
    save_model(encoder, str(part / "model.safetensors"))
    fingerprint = _fingerprint(part)
    info = EncoderInfo(name, stage, encoder.config, encoder.dim, encoder.matryoshka, fingerprint, facts or {})
    tree = asdict(info) | {"config": encoder.config.model_dump(mode="json")}
    (part / "encoder.json").write_text(json.dumps(tree, indent=1) + "\n")
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    if folder.exists():
        exchange(part, folder)
        shutil.rmtree(part)
    else:
        os.rename(part, folder)
    return info


def encoder_info(folder: Path | str) -> EncoderInfo:
    """What a saved encoder is, without reading its weights.

    Raises InputError if the folder holds none.
    """
    path = Path(folder) / "encoder.json"
    if not path.is_file():
        raise InputError(f"{folder}: no encoder (encoder.json is missing); make one with moon encoder pretrain")
    try:
        tree = json.loads(path.read_text())
        config = parse_config({"config": tree["config"]}, _Parsed, str(path)).config
        return EncoderInfo(**tree | {"config": config, "matryoshka": tuple(tree["matryoshka"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable, the encoder is damaged: {error}") from None


def load_encoder(folder: Path | str, device: torch.device | str = "cpu") -> Encoder:
    """A saved encoder in evaluation mode.

    Raises InputError if the folder holds none or is damaged.
    """
    folder, info = Path(folder), encoder_info(folder)
    if isinstance(info.config, DualTowerConfig):
        from moon_encoder.dual_tower import DualTower

        encoder: Encoder = DualTower.build(info.config, folder / "assets")
    else:
        from moon_encoder.mllm import Mllm

        encoder = Mllm.build(info.config, assets=folder / "assets")
    try:
        load_model(encoder, str(folder / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'model.safetensors'}: damaged, or of another model: {reason}") from None
    return encoder.to(device).eval()


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
