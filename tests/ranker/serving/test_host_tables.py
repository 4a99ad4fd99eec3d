"""Tables in host memory: float32 bit for bit, float16 and rowwise int8 within their rounding."""

import numpy as np
import pytest
import torch

from data.errors import InputError
from ranker.serving import host_tables
from ranker.serving.host_tables import HostTable, int8_rows, write_table


def written(folder, rows, dtype):
    write_table(folder, "t", *rows.shape, lambda start, stop: rows[start:stop], dtype)
    return HostTable(folder, "t")


@pytest.fixture
def rows():
    found = np.random.default_rng(0).normal(size=(1000, 12)).astype(np.float32)
    found *= np.float32(10.0) ** np.random.default_rng(1).integers(-6, 4, (1000, 1))
    found[0] = 0
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rows_come_back_within_rounding(rows, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(host_tables, "CHUNK_ROWS", 300)
    table = written(tmp_path, rows, dtype)
    ids = np.random.default_rng(2).integers(0, 1000, 500)
    found = table.rows(torch.from_numpy(ids)).numpy()
    largest = np.abs(rows[ids]).max(1, keepdims=True)
    allowed = {"float32": 0, "float16": largest * 2**-11 + 2**-25, "int8": largest / 127 * 0.51 + 2**-25}[dtype]
    assert (np.abs(found - rows[ids]) <= allowed).all() and not table.rows(torch.tensor([0])).any()
    size = {"float32": 48, "float16": 24, "int8": 12 + 2}[dtype] * 1000
    assert table.bytes == size
    assert table.rows(torch.empty(0, dtype=torch.int64)).shape == (0, 12)


def test_a_scale_is_never_rounded_below_its_row(rows):
    scale, codes = int8_rows(rows)
    assert (np.abs(codes) <= 127).all() and scale.dtype == np.float16
    assert (scale.astype(np.float64) * 127 >= np.abs(rows).max(1)).all()


def test_wild_values_are_named(rows, tmp_path):
    rows[7, 3] = np.inf
    with pytest.raises(InputError, match="table 't' row 7: a value is inf"):
        written(tmp_path, rows, "float32")
    rows[7, 3] = 1e6
    with pytest.raises(InputError, match=r"table 't' row 7: a value is 1000000\.0"):
        written(tmp_path, rows, "float16")


def test_a_cut_off_table_is_named(rows, tmp_path):
    written(tmp_path, rows, "float32")
    path = tmp_path / "t.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"t\.npy: not a whole"):
        HostTable(tmp_path, "t")
