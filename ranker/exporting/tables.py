"""The embedding tables of a trained ranker, written for host memory; whatever their sharding was."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ranker.local_parts import local_parts, table_of
from ranker.model import Ranker
from ranker.serving.host_tables import TableDtype, write_table


def table_state(model: nn.Module) -> dict[str, Tensor]:
    """Every trained table's (possibly sharded) weight by table name; vectors as their store holds them are none."""
    found = {}
    for name, value in model.state_dict().items():
        if table := table_of(name):
            found[table] = value
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
    out = torch.zeros(stop - start, value.size(1))
    for values, row, column in local_parts(value):
        first, last = max(start, row), min(stop, row + values.size(0))
        if first < last:
            part = values[first - row : last - row].detach().float().cpu()
            out[first - start : last - start, column : column + values.size(1)] = part
    return out.numpy()
