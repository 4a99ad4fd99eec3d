"""Embedding tables in host memory: memory-mapped files, one copy for all processes, float32, float16 or rowwise int8.

tables/{T.npy (rows, dim) float32 | float16 | int8, T.scale.npy (rows,) float16 beside int8}
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.arrays import open_array
from data.errors import InputError
from features.spec import FeatureSpec

TableDtype = Literal["float32", "float16", "int8"]
CHUNK_ROWS = 1 << 16
INT8_MAX = 127


class HostTable:
    """One table; its rows are read as float32."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises InputError for a file that is absent or cut off."""
        self.codes = _mapped(folder / f"{name}.npy")
        self.scale = _mapped(folder / f"{name}.scale.npy") if self.codes.dtype == torch.int8 else None

    def rows(self, ids: Tensor) -> Tensor:
        """Rows (n, dim) float32 of ids (n,)."""
        rows = self.codes.index_select(0, ids).float()
        return rows if self.scale is None else rows.mul_(self.scale.index_select(0, ids).float().unsqueeze(1))

    @property
    def bytes(self) -> int:
        """Size of its files' content."""
        return sum(t.numel() * t.element_size() for t in (self.codes, self.scale) if t is not None)


class HostTables:
    """Looks up what TorchRec's tables looked up in training."""

    def __init__(self, folder: Path, spec: FeatureSpec) -> None:
        tables = {name: HostTable(folder, name) for name in spec.tables_in_use()}
        self.bytes = sum(table.bytes for table in tables.values())
        self._table_of = {feature: tables[table] for table, feature in spec.lookups()}

    def rows(self, ids: dict[int, KeyedJaggedTensor]) -> dict[str, Tensor]:
        """Rows (V, D) of every look-up of a batch."""
        found = {}
        for keyed in ids.values():
            counts = keyed.lengths().tolist()
            for name, values in zip(keyed.keys(), keyed.values().split_with_sizes(counts), strict=True):
                found[name] = self._table_of[name].rows(values)
        return found


def write_table(
    folder: Path, name: str, rows: int, dim: int, read: Callable[[int, int], np.ndarray], dtype: TableDtype
) -> None:
    """Write a table chunk by chunk; `read(start, stop)` gives its rows as float32.

    int8 is symmetric, `row = codes * scale`: the scale is the row's largest absolute value / 127, rounded up to
    float16 before the codes are taken, so that its rounding costs nothing.
    Raises InputError for a value that is not finite, or too large for float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    codes = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=(rows, dim))
    scales = np.zeros(rows, np.float16)
    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        part = read(start, stop)
        largest = np.abs(part).max(axis=1, initial=0)
        bad = ~(largest <= (np.inf if dtype == "float32" else np.finfo(np.float16).max)) | ~np.isfinite(largest)
        if bad.any():
            raise InputError(f"table {name!r} row {start + int(np.argmax(bad))}: a value is {largest[bad][0]}")
        if dtype == "int8":
            scales[start:stop], part = int8_rows(part)
        codes[start:stop] = part
    codes.flush()
    if dtype == "int8":
        np.save(folder / f"{name}.scale.npy", scales)


def int8_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale (n,) float16, codes (n, dim) int8-valued) of float32 rows; a row of zeros has scale 0."""
    exact = np.abs(rows).max(axis=1, initial=0) / INT8_MAX
    scale = exact.astype(np.float16)
    scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    safe = np.where(scale == 0, 1, scale).astype(np.float32)
    return scale, np.rint(rows / safe[:, None])


def _mapped(path: Path) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the map is read-only and so stays shared; nothing here writes into it
        return torch.from_numpy(open_array(path))
