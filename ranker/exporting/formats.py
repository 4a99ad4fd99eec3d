"""Writing an exported program in the three formats, and what the compilers need."""

import contextlib
import copy
import io
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from data.errors import InputError
from ranker.exporting.onnx_operators import DECOMPOSITIONS
from ranker.serving.runtimes import FILES

# Settings of the compiler. Indices come from our own collator and need no check in every loop. Operations keep their
# order: put in the one that takes the least memory, torch 2.13 reads counts (ranker.simtier) before they are added up.
# For CPUs, weights are packed for oneDNN, whose products are a tenth faster, and loops have one thread, as a worker.
SETTINGS = {"assert_indirect_indexing": False, "reorder_for_peak_memory": False}
SETTINGS_CPU = SETTINGS | {"freezing": True, "cpp.threads": 1}


def write_program(program: ExportedProgram, folder: Path) -> None:
    """The torch.export program itself, without the inputs it was traced with."""
    bare = copy.copy(program)
    bare.example_inputs = None  # pyright: ignore[reportAttributeAccessIssue]
    torch.export.save(bare, folder / FILES["program"])


def write_aoti(program: ExportedProgram, folder: Path, device: torch.device) -> None:
    """An AOTInductor package for `device`: compiled code that runs without Python.

    Raises InputError where there is no C++ compiler.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise InputError("--programs aoti: no C++ compiler here; install g++, or export with --programs program,onnx")
    path = folder / FILES["aoti"].format(device=device.type)
    settings = SETTINGS_CPU if device.type == "cpu" else SETTINGS
    with _quiet(), torch.no_grad():  # packing asks for it
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def write_onnx(program: ExportedProgram, inputs: dict[str, Tensor], folder: Path) -> str | None:
    """An ONNX model whose inputs have the names of `inputs`; returns why it could not be written, or None.

    Operators without a counterpart are the only good reason: any mechanism may bring one, and onnxruntime lacks some of
    them in bfloat16.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as problems  # pyright: ignore[reportAttributeAccessIssue]
    from torch.onnx import OnnxExporterError

    table = torch.export.default_decompositions()
    table.update(DECOMPOSITIONS)
    with _quiet():
        plain = program.run_decompositions(table)
        try:
            model = torch.onnx.export(plain, dynamo=True, optimize=False, verbose=False, input_names=list(inputs))
        except OnnxExporterError as error:
            return str(error.__cause__ or error).split("\n")[0][:300]
        assert model is not None
        path = folder / FILES["onnx"]
        model.save(path)
    try:
        onnxruntime.InferenceSession(path)
    except (problems.InvalidGraph, problems.NotImplemented) as error:
        path.unlink()
        return str(error).split("failed:")[-1][:300]
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The compilers' own notes and warnings are not the user's business."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
