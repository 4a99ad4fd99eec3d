"""Incremental training: the next day's data on the model of the day before (`moon train --init RUN`).

The encoder grows out of the earlier run's, and every table takes over the rows, with their optimizer state, of the
values that it still knows; new values start as in a fresh run. The dense part and its optimizer go on as they are.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from data.dataset import Dataset
from data.errors import InputError
from features.encoder import FeatureEncoder
from ranker.checkpoint import own_state
from ranker.config import Recipe
from ranker.local_parts import local_parts, table_of
from ranker.run_folder import RunFolder

WHICH = "best"


def grown_encoder(previous: RunFolder, recipe: Recipe, dataset: Dataset) -> FeatureEncoder:
    """The encoder of a run on newer data that goes on from `previous`.

    Raises InputError if the two recipes differ in their features, model or optimizers.
    """
    before = previous.recipe()
    for name, then, now in (
        ("features", before.features, recipe.features),
        ("model", before.model, recipe.model),
        ("train.tables.kind", before.train.tables.kind, recipe.train.tables.kind),
        ("train.dense.kind", before.train.dense.kind, recipe.train.dense.kind),
    ):
        if then != now:
            raise InputError(f"--init {previous.root}: its {name} differ from the recipe's; they must be the same")
    return FeatureEncoder.grown(FeatureEncoder.load(previous.encoder), dataset)


def take_over(
    previous: RunFolder, encoder: FeatureEncoder, model: DistributedModelParallel, optimizer: CombinedOptimizer
) -> None:
    """Fill model and optimizer from the best checkpoint of `previous`, every row at its value's new place.

    One table at a time is held whole on each rank; each reads for itself, for they hold states of different tables.
    Raises InputError if there is no such checkpoint.
    """
    folder = previous.checkpoints / WHICH
    if not folder.exists():
        raise InputError(f"--init {previous.root}: no finished evaluation there, so no checkpoint to start from")
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    before = FeatureEncoder.load(previous.encoder).vocabularies
    moved = {t: v.rows_in(before[t]) for t, v in encoder.vocabularies.items() if t in before and not v.hashed}
    state = {"model": own_state(model), "optimizer": optimizer.state_dict()}
    ours, _ = flatten_state_dict(state)
    same: dict[str, Any] = {}
    for name, value in ours.items():
        then = stored.get(name)
        if not isinstance(then, TensorStorageMetadata) or not hasattr(value, "size"):
            continue
        table = _table(name)
        if table in moved:
            _move(folder, name, then, value, moved[table])
        elif tuple(then.size) == tuple(value.size()):
            same[name] = value
        elif table is not None:  # trained vectors of a store that has got more rows
            rows = np.arange(value.size(0))
            _move(folder, name, then, value, np.where(rows < then.size[0], rows, -1))
    dcp.load(same, checkpoint_id=folder, no_dist=True)
    model.load_state_dict(OrderedDict(model.state_dict() | state["model"]))
    optimizer.load_state_dict(state["optimizer"])


def _table(name: str) -> str | None:
    """The table that an entry of a checkpoint belongs to: its weight, or a state of the optimizer."""
    head = name.split(".weight", 1)[0] + ".weight"
    return table_of(head[max(0, head.find("tables.copies")) :] if ".tables.copies" in head else head)


def _move(folder: Any, name: str, then: TensorStorageMetadata, value: Any, source: np.ndarray) -> None:
    """Fill a table's entry: row i from the row source[i] of the stored one, where that is not negative."""
    old = {name: torch.zeros(then.size, dtype=then.properties.dtype)}
    dcp.load(old, checkpoint_id=folder, no_dist=True)
    with torch.no_grad():
        for part in local_parts(value):
            rows = torch.from_numpy(source[part.row : part.row + part.values.size(0)])
            known = (rows >= 0).nonzero().squeeze(1)
            found = old[name].index_select(0, rows[known])
            if part.values.dim() == 2:
                found = found[:, part.column : part.column + part.values.size(1)]
            part.values[known.to(part.values.device)] = found.to(part.values.device)
