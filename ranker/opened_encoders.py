"""The encoders of one run's end_to_end vectors: opened when its training starts, saved into the run at its end."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import nn

from data.dataset import Dataset
from features.vector_source import VectorSource
from ranker.end_to_end import EncoderRoom, OpenEncoder
from ranker.run_folder import RunFolder


class OpenedEncoders:
    """Opens encoders by the name of the vectors and keeps what it opened."""

    def __init__(
        self, room: EncoderRoom, folders: Mapping[str, Path], dataset: Dataset, cache: Path | None = None
    ) -> None:
        """`folders`: saved encoders by name. `cache`: folder for what their frozen parts make of items."""
        self.room, self.dataset, self.cache = room, dataset, cache
        self.modules: dict[str, nn.Module] = {}
        self.openers: dict[str, OpenEncoder] = {name: partial(self._open, folder) for name, folder in folders.items()}

    def _open(self, folder: Path, source: VectorSource) -> nn.Module:
        module = self.room.open(folder, source, self.dataset, self.cache)
        self.modules[source.spec.name] = module
        return module

    def save(self, run: RunFolder) -> None:
        """Write the trained ones into RUN/encoders, and into its meta.json what stores that they fill call them."""
        if self.modules:
            names = {name: self.room.save(one, run.root / "encoders" / name) for name, one in self.modules.items()}
            run.write_meta(run.meta() | {"trained_encoders": names})
