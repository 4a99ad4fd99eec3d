"""An AOTInductor package on the CPU, called by its C interface: no lock of the interpreter is held while it computes.

torch's own loader holds the interpreter's lock during a call, so that threads would compute one after another.
https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html; the functions are those of
torch/csrc/inductor/aoti_runtime/interface.h. It takes and gives tensors by handles, which torch makes of tensors and
back (as capsules) for its own callers.
"""

import ctypes
import os
import tempfile
import weakref
import zipfile
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p, py_object
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _aoti  # pyright: ignore[reportAttributeAccessIssue]

from data.errors import InputError

CAPSULE = ctypes.PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))
ADDRESS = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
DELETE = "aoti_torch_delete_tensor_object"


def can_call(path: Path) -> bool:
    """Whether a package is one library whose operators all have a C interface."""
    names = zipfile.ZipFile(path).namelist()
    operators = [name for name in names if name.endswith(".json") and not name.endswith("_metadata.json")]
    return sum(name.endswith(".so") for name in names) == 1 and not operators  # those only torch's loader can call


class Compiled:
    """The program of a package for the CPU; `runners` threads may call it at the same time."""

    def __init__(self, path: Path, runners: int) -> None:
        """Raises InputError if the library does not start on this machine."""
        self._model = _library(path)
        self._delete = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))[DELETE]
        self._delete.argtypes = [c_void_p]
        self._container = c_void_p()
        start = self._model.AOTInductorModelContainerCreateWithDevice
        start.argtypes = [POINTER(c_void_p), c_size_t, c_char_p, c_char_p]
        if start(byref(self._container), runners, b"cpu", None):
            raise InputError(f"{path}: the compiled program does not start here; export again on this machine")
        count = c_size_t()
        self._model.AOTInductorModelContainerGetNumInputs(self._container, byref(count))
        self.inputs = count.value
        self._run = self._model.AOTInductorModelContainerRun
        self._run.argtypes = [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_void_p), c_size_t, c_void_p, c_void_p]
        weakref.finalize(self, self._model.AOTInductorModelContainerDelete, self._container)

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """-> logits (B,) float32. Raises RuntimeError if the program fails (its words are on stderr)."""
        assert len(inputs) == self.inputs
        given = _aoti.unsafe_alloc_void_ptrs_from_tensors([tensor.contiguous() for tensor in inputs.values()])
        handles, out = (c_void_p * len(given))(*[ADDRESS(handle, None) for handle in given]), (c_void_p * 1)()
        if self._run(self._container, handles, len(given), out, 1, None, None):  # it takes the handles
            raise RuntimeError("the compiled program failed")
        found = _aoti.alloc_tensor_by_stealing_from_void_ptr(CAPSULE(out[0], None, None))
        self._delete(out[0])  # the handle; `found` is a second owner of the tensor, whatever its maker's name says
        return found


def _library(path: Path) -> Any:
    """The package's library, loaded from a file that is gone afterwards."""
    with zipfile.ZipFile(path) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".so"))
        handle, file = tempfile.mkstemp(suffix=".so")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(package.read(name))
            return ctypes.CDLL(file)
        finally:
            os.unlink(file)
