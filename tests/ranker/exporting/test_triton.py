"""The Triton layout: a configuration that Triton's own schema reads, and a backend that gives the scores."""

import json
import shutil
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import moon
from data.errors import InputError
from ranker.exporting import export, triton
from ranker.exporting.recorded import tensors_of
from ranker.serving.package import current_version, open_package
from ranker.serving.triton_backend import TritonPythonModel


@pytest.fixture(scope="module")
def repository(exported, tmp_path_factory):
    root = tmp_path_factory.mktemp("triton") / "repository"
    with triton.beside(root) as scratch:
        triton.publish(shutil.copytree(current_version(exported.package), scratch / "v00000007"), root)
    return root


def test_the_layout_is_triton_s_and_its_schema_reads_the_configuration(exported, repository):
    assert sorted(p.relative_to(repository).as_posix() for p in repository.glob("*/*")) == [
        "export/1",
        "export/config.pbtxt",
    ]
    assert sorted(p.name for p in (repository / "export" / "1").iterdir()) == ["model.py", "v00000001"]
    assert [p.name for p in repository.parent.iterdir()] == ["repository"]
    own = open_package(current_version(exported.package)).signature
    text = (repository / "export" / "config.pbtxt").read_text()
    found = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (found.name, found.backend, found.max_batch_size) == ("export", "python", 0)
    types = {"INT64": "TYPE_INT64", "FP64": "TYPE_FP64", "BYTES": "TYPE_STRING", "BOOL": "TYPE_BOOL"}
    given = {i.name: (model_config_pb2.DataType.Name(i.data_type), list(i.dims)) for i in found.input}
    assert given == {i.name: (types[i.datatype], [1 if i.shape == "one" else -1]) for i in own.inputs}
    assert [(o.name, o.data_type, list(o.dims)) for o in found.output] == [("score", model_config_pb2.TYPE_FP32, [-1])]


@dataclass
class Tensor:
    """As Triton's backend hands it over."""

    title: str
    values: np.ndarray

    def name(self):
        return self.title

    def as_numpy(self):
        return self.values


@dataclass
class Response:
    output_tensors: list = field(default_factory=list)
    error: str | None = None


@pytest.fixture
def backend(repository, monkeypatch):
    """The class that model.py names, loaded as Triton loads it."""
    utils = SimpleNamespace(Tensor=Tensor, InferenceResponse=Response, TritonError=str)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    names: dict = {}
    exec((repository / "export" / "1" / "model.py").read_text(), names)
    assert names["TritonPythonModel"] is TritonPythonModel

    def start(**parameters):
        model = TritonPythonModel()
        config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
        model.initialize(
            {"model_repository": str(repository / "export"), "model_version": "1", "model_config": json.dumps(config),
             "model_instance_kind": "CPU", "model_instance_device_id": "0"}
        )  # fmt: skip
        return model

    return start


def request(own, row, **changes):
    tensors = tensors_of(own, row) | changes
    texts = {name: np.array([v.encode() for v in x], object) for name, x in tensors.items() if x.dtype.kind == "U"}
    return SimpleNamespace(inputs=lambda: [Tensor(name, x) for name, x in (tensors | texts).items()])


def test_the_backend_gives_the_scores_and_tells_what_is_wrong_with_which_request(exported, backend):
    folder = current_version(exported.package)
    own, rows = open_package(folder).signature, pl.read_parquet(folder / "examples" / "requests.parquet").to_dicts()
    expected = pl.read_parquet(folder / "examples" / "scores.parquet")["score"].to_numpy()
    asked = [request(own, row) for row in rows]
    asked[3] = request(own, rows[3], item=np.zeros((1, 1), np.int64))
    asked[5] = request(own, rows[5], ts=np.array([1.5]))
    model = backend()
    found = model.execute(asked)
    for place, response in enumerate(found):
        if place in (3, 5):
            assert not response.output_tensors
            continue
        (tensor,) = response.output_tensors
        assert tensor.title == "score" and tensor.values.dtype == np.float32 and response.error is None
        assert abs(tensor.values[0] - expected[place]) < 1e-6
    assert "input 'item': shape [1, 1] must be [n]" in found[3].error and "input 'ts'" in found[5].error
    assert model.execute([asked[3]])[0].error == found[3].error


def test_a_store_is_followed(exported, backend, tmp_path):
    own = current_version(exported.package) / "stores" / "image"
    model = backend(**{"store.image": str(shutil.copytree(own, tmp_path / "store"))})
    assert model.model.vectors["image"].pinned.version.folder.is_relative_to(tmp_path)
    with pytest.raises(InputError, match="--store text=x: the model has no such vectors"):
        backend(**{"store.text": "x"})


def test_the_command_adds_a_version(exported, tmp_path, monkeypatch, capsys):
    def quick(run, dataset, out, *_):
        version = shutil.copytree(current_version(exported.package), out / "v00000001")
        return json.loads((version / "card.json").read_text()), version

    monkeypatch.setattr(export, "export", quick)
    words = ["export", exported.run, "--out", tmp_path / "r", "--format", "triton"]
    for number in (1, 2):
        assert moon.main([str(word) for word in words]) == 0
        assert f"r/export/{number}: export, content" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "r" / "export").iterdir()) == ["1", "2", "config.pbtxt"]
    (tmp_path / "other" / "export").mkdir(parents=True)
    (tmp_path / "other" / "export" / "file").touch()
    words[3] = tmp_path / "other"
    assert moon.main([str(word) for word in words]) == 2
    assert "holds something else" in capsys.readouterr().err
