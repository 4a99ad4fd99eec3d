"""End to end: the encoder in the graph of the click loss for the target items, histories from the table it refreshes.

The practice that MOON left and others kept: an encoder is any module `items (n,) int64 of the dataset -> vectors
(n, D) float32`, D at least the width that the recipe reads. In a training step it encodes the distinct targets of the
batch; the vectors of the behaviours are rows of the table, without gradient. The whole table is computed anew by the
encoder before the first step, every `refresh_steps` steps, and before each evaluation: so a checkpoint that was judged
holds the vectors of its own encoder, and evaluation, export and serving need no encoder.

Shape legend: B samples, T distinct targets, M vector width.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from data.dataset import Dataset
from data.errors import InputError
from features.batch import Batch
from features.ranks import Ranks
from features.vector_source import MISSING, MISSING_ITEM, VectorSource

CHUNK = 256  # items encoded at a time in a refresh
OpenEncoder = Callable[[VectorSource], nn.Module]


class EncoderRoom(Protocol):
    """Opens and saves encoders for `moon train --encoder`; the ranker knows none of their kinds."""

    def open(self, folder: Path, source: VectorSource, dataset: Dataset, cache: Path | None = None) -> nn.Module:
        """The module of a saved encoder that reads the dataset's items as those were that `source` holds vectors of.

        `cache`: folder for what its frozen part makes of items, which runs share; None: each computes it again.
        """
        ...

    def save(self, module: nn.Module, folder: Path) -> str:
        """Write the trained encoder; returns what stores that it fills call it."""
        ...


class ItemEncoders:
    """The encoders of a run's end_to_end vectors (often there are none)."""

    def __init__(self, openers: Mapping[str, OpenEncoder], sources: dict[str, VectorSource], ranks: Ranks) -> None:
        """`openers`: by name of the vectors; raises InputError unless exactly the end_to_end ones have an encoder."""
        wanted = [name for name, source in sources.items() if source.spec.mode == "end_to_end"]
        require_encoders(wanted, openers)
        self.sources = {name: sources[name] for name in wanted}
        self.ranks = ranks
        modules = {name: openers[name](source) for name, source in self.sources.items()}
        self.digests = {name: weights_digest(module) for name, module in modules.items()}
        self.modules = nn.ModuleDict(modules).to(ranks.device).train()

    def __bool__(self) -> bool:
        return bool(self.sources)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, by encoders.NAME.PATH."""
        return {f"encoders.{name}": p for name, p in self.modules.named_parameters() if p.requires_grad}

    def rates(self) -> dict[str, float]:
        """Learning rates of encoders that have one of their own, by encoders.NAME."""
        return {f"encoders.{name}": source.spec.lr for name, source in self.sources.items() if source.spec.lr}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """By name, vectors (B, M) of the targets, length 1, with gradient; 0 where a target has no vector."""
        found = {}
        wanted, place = torch.unique(batch.target, return_inverse=True)
        for name, source in self.sources.items():
            items_T = self._items(source, batch.vectors[name].index_select(0, wanted))
            there = (items_T != MISSING_ITEM).nonzero().squeeze(1)
            vectors_TM = torch.zeros(len(wanted), source.dim, device=batch.target.device)
            if len(there):
                made = self._vectors(name, items_T.index_select(0, there))
                vectors_TM = vectors_TM.index_copy(0, there, made)
            found[name] = vectors_TM.index_select(0, place)
        return found

    def due(self, step: int) -> bool:
        """Whether a refresh follows `step` (steps done)."""
        return any(s.spec.refresh_steps and step % s.spec.refresh_steps == 0 for s in self.sources.values())

    @torch.no_grad()
    def refresh(self, model: DistributedModelParallel) -> None:
        """Write the tables anew, CHUNK items at a time; every rank writes the rows that it holds."""
        self.modules.eval()
        state = model.state_dict() if self else {}
        for name, source in self.sources.items():
            value = state[f"vectors.collections.{name}.embeddings.{name}.weight"]
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                self._fill(name, source, shard.tensor, row, column)
        self.modules.train()

    def state(self) -> dict[str, Tensor]:
        """What training may have changed: trained weights and buffers."""
        frozen = {name for name, p in self.modules.named_parameters() if not p.requires_grad}
        return {name: value for name, value in self.modules.state_dict().items() if name not in frozen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take a state back."""
        self.modules.load_state_dict(self.modules.state_dict() | state)

    def _fill(self, name: str, source: VectorSource, out: Tensor, row: int, column: int) -> None:
        """Encode the items of the rows `row`.. and write their columns `column`.. into `out`."""
        items = source.item_of_row[row : row + len(out)]
        places = np.flatnonzero(items != MISSING_ITEM)
        for start in range(0, len(places), CHUNK):
            part = torch.from_numpy(places[start : start + CHUNK])
            made = self._vectors(name, torch.from_numpy(items)[part].to(self.ranks.device))
            out[part.to(out.device)] = made[:, column : column + out.size(1)].to(out)

    def _vectors(self, name: str, items: Tensor) -> Tensor:
        """(n, M) of length 1: the prefix that the recipe reads. Raises InputError where the encoder gives too few."""
        made, dim = self.modules[name](items), self.sources[name].dim
        if made.size(1) < dim:
            raise InputError(
                f"--encoder {name}: gives {made.size(1)} dimensions, features.vectors {name!r} reads {dim}"
            )
        return F.normalize(made[:, :dim].float(), dim=1)

    def _items(self, source: VectorSource, rows: Tensor) -> Tensor:
        """Item (n,) int64 whose content stands in each row of the table."""
        items = torch.from_numpy(source.item_of_row).to(rows.device)
        return torch.where(rows == MISSING, MISSING_ITEM, items.index_select(0, rows))


def require_encoders(wanted: list[str], given: Mapping[str, Any]) -> None:
    """Raise InputError unless the vectors `wanted` and no others have an encoder."""
    for name in wanted:
        if name not in given:
            raise InputError(f"features.vectors {name!r} are end_to_end and need an encoder; give --encoder {name}=DIR")
    for name in given:
        if name not in wanted:
            raise InputError(f"--encoder {name}: no vectors of this name with mode end_to_end in features.vectors")


def weights_digest(module: nn.Module) -> str:
    """sha256 over names and values of all weights."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode() + value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
