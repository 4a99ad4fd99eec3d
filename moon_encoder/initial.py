"""The encoder that a training run starts from: a saved one, or a new one of a config."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from data.config import Config, load_config
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder
from moon_encoder.config import EncoderConfig
from moon_encoder.encoder import Encoder


class NewEncoder(Config):
    """A file that describes an encoder to build."""

    encoder: EncoderConfig


def start_from(
    path: Path, seed: int, texts: Callable[[], Iterable[str]], changes: Sequence[str] = ()
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder in a folder, or a new one of a YAML file, with facts: what it is and a fingerprint.

    `texts` yields the train items' texts, which a new tokenizer is trained on. `changes`: of the file's fields, A.B=C.
    Raises InputError if there is neither, or if it cannot be loaded.
    """
    if path.is_file():
        config = load_config(path, NewEncoder, changes).encoder
        return build_encoder(config, seed, texts), {
            "stage": "initial",
            "fingerprint": f"{seed} {config.model_dump_json()}",
        }
    info = encoder_info(path)
    return load_encoder(path), {"stage": info.stage, "fingerprint": info.fingerprint}
