"""`moon train`, and what it needs of an encoder in end_to_end mode: items of a catalogue in, vectors out."""

from pathlib import Path
from typing import TYPE_CHECKING

from ranker import train_command

if TYPE_CHECKING:
    from torch import nn

    from data.dataset import Dataset
    from features.vector_source import VectorSource


def main(argv: list[str]) -> int:
    """The command."""
    return train_command.main(argv, MoonEncoders())


class MoonEncoders:
    """Encoders of moon_encoder for the ranker (see ranker.end_to_end.EncoderRoom)."""

    def open(self, folder: Path, source: "VectorSource", dataset: "Dataset", cache: Path | None = None) -> "nn.Module":
        """The saved encoder on what the store's own encoder was shown of an item."""
        from experiments.catalogue_encoder import CatalogueEncoder

        return CatalogueEncoder.open(folder, source, dataset, cache)

    def save(self, module: "nn.Module", folder: Path) -> str:
        """Write the trained encoder; moon encoder embed makes a store of it."""
        from experiments.catalogue_encoder import CatalogueEncoder

        assert isinstance(module, CatalogueEncoder)
        return module.save(folder)
