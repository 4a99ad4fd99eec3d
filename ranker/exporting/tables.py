"""The embedding tables of a trained ranker, written for host memory; whatever their sharding was."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ranker.model import Ranker
from ranker.serving.host_tables import TableDtype, write_table


def table_state(model: nn.Module) -> dict[str, Tensor]:
    """Every trained table's (possibly sharded) weight by table name; vectors as their store holds them are none."""
    found = {}
    for name, value in model.state_dict().items():
        if ".embeddings." in name:
            found[name.split(".embeddings.")[1].split(".")[0]] = value
    stored = cast(Ranker, model.module).stored
    return {name: value for name, value in found.items() if name not in stored}


def write_tables(model: nn.Module, folder: Path, dtype: TableDtype) -> dict[str, tuple[int, int]]:
    """Write all trained tables of a ranker on one rank; returns (rows, width) by name."""
    shapes = {}
    for name, value in table_state(model).items():
        rows, dim = value.size(0), value.size(1)
        write_table(folder, name, rows, dim, lambda start, stop, value=value: read_rows(value, start, stop), dtype)
        shapes[name] = (rows, dim)
    return shapes


def read_rows(value: Tensor, start: int, stop: int) -> np.ndarray:
    """Rows start..stop of a table as float32, put together from the shards of this one rank."""
    if not hasattr(value, "local_shards"):
        return value[start:stop].detach().float().cpu().numpy()
    out = torch.zeros(stop - start, value.size(1))
    for shard in value.local_shards():  # pyright: ignore[reportAttributeAccessIssue]
        (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
        first, last = max(start, row), min(stop, row + rows)
        if first < last:
            part = shard.tensor[first - row : last - row].detach().float().cpu()
            out[first - start : last - start, column : column + columns] = part
    return out.numpy()
