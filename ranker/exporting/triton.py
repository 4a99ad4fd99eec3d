"""A Triton model repository: a version of a package in Triton's own layout, served by its Python backend.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/3/{model.py, v00000003/}

Look-ups of raw ids, histories and stores come before the compiled program, so a backend for programs alone (pytorch,
onnxruntime) would leave them to every client; ranker.serving.triton_backend does them and then runs that program.
https://github.com/triton-inference-server/python_backend
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from data.errors import InputError
from data.files import write_text
from ranker.serving.package import Package, open_package

pb: Any = model_config_pb2  # its messages are made when it is imported
TYPES = {"INT64": pb.TYPE_INT64, "FP64": pb.TYPE_FP64, "BYTES": pb.TYPE_STRING, "BOOL": pb.TYPE_BOOL}
MODEL = '''"""Triton calls this file; what it does is in the package moon-ranker, to be installed beside Triton."""

from ranker.serving.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@contextmanager
def beside(repository: Path) -> Iterator[Path]:
    """A folder on the repository's disk to export into; Triton does not see it. It is removed at the end."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=repository.parent, prefix=f".{repository.name}-"))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(version: Path, repository: Path) -> Path:
    """Move a finished version of a package into a repository as the model's next version; returns the version's folder.

    Triton sees the version in one step, and takes it up if it polls the repository or is told to load the model.
    Raises InputError if the model's folder holds something else.
    """
    package = open_package(version)
    model = repository / package.name
    if model.is_dir() and any(model.iterdir()) and not (model / "config.pbtxt").is_file():
        raise InputError(f"{model}: holds something else; give another --out")
    model.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in model.iterdir() if p.name.isdigit()), default=0) + 1
    part = version.parent / f".{number}"
    part.mkdir()
    os.rename(version, part / f"v{number:08d}")
    write_text(part / "model.py", MODEL)
    write_text(model / "config.pbtxt", text_format.MessageToString(config(package)))
    os.rename(part, model / str(number))
    return model / str(number)


def config(package: Package) -> Any:
    """A ModelConfig: the tensors of a request as in the Open Inference Protocol, one request a batch."""
    one = {"one": [1]}
    return pb.ModelConfig(
        name=package.name,
        backend="python",
        max_batch_size=0,  # a request is many candidates of one user; tensors of several are no rectangles
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        input=[
            pb.ModelInput(name=i.name, data_type=TYPES[i.datatype], dims=one.get(i.shape, [-1]))
            for i in package.signature.inputs
        ],
        output=[pb.ModelOutput(name="score", data_type=pb.TYPE_FP32, dims=[-1])],
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)],
    )
