"""An AOTInductor package on the CPU, called by its C interface: no lock of the interpreter is held while it computes.

torch's own loader holds the interpreter's lock during a call, so that threads would compute one after another.
https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html; the functions are those of
torch/csrc/inductor/aoti_runtime/interface.h and torch/csrc/inductor/aoti_torch/c/shim.h.
"""

import ctypes
import os
import tempfile
import weakref
import zipfile
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint8, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError

DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.bool: "bool"}
Sizes = POINTER(c_int64)
SIZES = [c_int64 * dims for dims in range(5)]


def can_call(path: Path) -> bool:
    """Whether a package is one library whose operators all have a C interface."""
    names = zipfile.ZipFile(path).namelist()
    operators = [name for name in names if name.endswith(".json") and not name.endswith("_metadata.json")]
    return sum(name.endswith(".so") for name in names) == 1 and not operators  # those only torch's loader can call


class Compiled:
    """The program of a package for the CPU; `runners` threads may call it at the same time."""

    def __init__(self, path: Path, runners: int) -> None:
        """Raises InputError if the library does not start on this machine."""
        self._torch, self._model = _torch(), _library(path)
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
        self._dtypes = {d: int(getattr(self._torch, f"aoti_torch_dtype_{name}")()) for d, name in DTYPES.items()}
        self._place = self._torch.aoti_torch_device_type_cpu(), 0
        weakref.finalize(self, self._model.AOTInductorModelContainerDelete, self._container)

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """-> logits (B,) float32. Raises RuntimeError if the program fails (its words are on stderr)."""
        assert len(inputs) == self.inputs
        tensors = [tensor.contiguous() for tensor in inputs.values()]  # kept until the call returns
        handles, out = (c_void_p * len(tensors))(), (c_void_p * 1)()
        for place, tensor in enumerate(tensors):
            handles[place] = self._handle(tensor)
        if self._run(self._container, handles, len(tensors), out, 1, None, None):  # it takes the handles, not the data
            raise RuntimeError("the compiled program failed")
        return self._taken(c_void_p(out[0]))

    def _handle(self, tensor: Tensor) -> int | None:
        dims, found = tensor.dim(), c_void_p()
        sizes = SIZES[dims](*tensor.shape), SIZES[dims](*tensor.stride())
        dtype = self._dtypes[tensor.dtype]
        if self._torch.aoti_torch_create_tensor_from_blob_v2(
            tensor.data_ptr(), dims, *sizes, 0, dtype, *self._place, byref(found), 0, None, 0
        ):
            raise RuntimeError("an input could not be handed to the compiled program")
        return found.value

    def _taken(self, handle: c_void_p) -> Tensor:
        data, count = c_void_p(), c_int64()
        self._torch.aoti_torch_get_data_ptr(handle, byref(data))
        self._torch.aoti_torch_get_numel(handle, byref(count))
        found = torch.empty(count.value)
        ctypes.memmove(found.data_ptr(), data.value or 0, 4 * count.value)
        self._torch.aoti_torch_delete_tensor_object(handle)
        return found


def _torch() -> Any:
    """torch's C functions, from the library that is loaded already."""
    found = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    found.aoti_torch_create_tensor_from_blob_v2.argtypes = [
        c_void_p, c_int64, Sizes, Sizes, c_int64, c_int32, c_int32, c_int32, POINTER(c_void_p), c_int32,
        POINTER(c_uint8), c_int64,
    ]  # fmt: skip
    found.aoti_torch_get_data_ptr.argtypes = [c_void_p, POINTER(c_void_p)]
    found.aoti_torch_get_numel.argtypes = [c_void_p, POINTER(c_int64)]
    found.aoti_torch_delete_tensor_object.argtypes = [c_void_p]
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
