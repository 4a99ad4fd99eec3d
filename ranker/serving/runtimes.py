"""The three ways to run an exported program; each maps the flat dictionary of inputs to logits (B,) float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch._inductor.package import load_package

from data.errors import InputError
from ranker.serving.compiled import Compiled, can_call

Runtime = Literal["aoti", "program", "onnx"]
Run = Callable[[dict[str, Tensor]], Tensor]
FILES: dict[str, str] = {"aoti": "dense-{device}.pt2", "program": "dense.program.pt2", "onnx": "dense.onnx"}
ISAS = ("DEFAULT", "AVX2", "AVX512")


def load_runtime(folder: Path, runtime: Runtime, device: torch.device, runners: int = 1) -> Run:
    """Open the program in a package's folder; `runners` threads may run it at the same time.

    Raises InputError if the package has no such format.
    """
    path = folder / FILES[runtime].format(device=device.type)
    if not path.is_file():
        there = [name for name in FILES if (folder / FILES[name].format(device=device.type)).is_file()]
        raise InputError(
            f"{path}: no such format in this package; it has: {', '.join(there) or 'none for this device'}"
        )
    if runtime == "aoti" and device.type == "cpu" and can_call(path):
        return Compiled(path, runners)
    if runtime == "aoti":
        return _on(device, load_package(str(path), num_runners=runners))
    if runtime == "program":
        return _on(device, torch.export.load(path).module())
    return _onnx(path)


def check_isa(compiled_for: str) -> None:
    """Raise InputError if the package was compiled for vector instructions that this CPU lacks."""
    here = torch.backends.cpu.get_cpu_capability()
    if compiled_for in ISAS and here in ISAS and ISAS.index(compiled_for) > ISAS.index(here):
        raise InputError(
            f"the package was compiled for {compiled_for}, this CPU has {here}; export on such a machine, "
            "or serve it with --runtime onnx"
        )


def _on(device: torch.device, program: Callable[[dict[str, Tensor]], Tensor]) -> Run:
    def run(inputs: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            return program({name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}).cpu()

    return run


def _onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: dict[str, Tensor]) -> Tensor:
        feed = {name: inputs[name].numpy() for name in names}
        return torch.from_numpy(session.run(None, feed)[0])

    return run
