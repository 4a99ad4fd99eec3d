"""Arrays come back as numpy wrote them, read-only, in many threads at once."""

import ast
import threading

import numpy as np
import pytest

from data.arrays import open_array
from data.errors import InputError

ARRAYS = {
    "float16": np.arange(12, dtype=np.float16).reshape(3, 4),
    "int8": np.arange(-3, 3, dtype=np.int8),
    "bool": np.array([True, False]),
    "big-endian": np.arange(5, dtype=">i8"),
    "text": np.array(["a", "déjà vu", ""]),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(7),
    "none": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_an_array_comes_back_bit_for_bit(tmp_path, name, version):
    array = ARRAYS[name]
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, array, version)
    read, loaded = open_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")
    assert read.dtype == loaded.dtype and read.shape == loaded.shape and np.array_equal(read, loaded)
    assert read.flags.f_contiguous == loaded.flags.f_contiguous and isinstance(read, np.memmap) == (array.size > 0)
    assert not read.flags.writeable


@pytest.mark.parametrize("kept", [0, 5, 9, 60, 128, 200])
def test_a_cut_off_file_is_named(tmp_path, kept):
    np.save(tmp_path / "a.npy", np.arange(50))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.npy: not a whole \.npy file \(truncated\?\)$"):
        open_array(tmp_path / "a.npy")


def test_no_array_a_structured_one_and_a_pickle(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(InputError, match=r"a\.npy: not a whole \.npy file"):
        open_array(tmp_path / "a.npy")
    for array in (np.zeros(3, [("x", "i4")]), np.array([{}], dtype=object)):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InputError, match=r"a\.npy: not a plain array: "):
            open_array(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        open_array(tmp_path / "none.npy")


def test_no_thread_goes_through_ast(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.arange(50))

    def refuse(*_, **__):
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(ast, "parse", refuse)
    failures = []

    def read():
        try:
            for _ in range(50):
                assert open_array(tmp_path / "a.npy").sum() == 1225
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
