"""`moon inspect STORE --projector`: TensorBoard's own reader takes it, rows and pictures belong together."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

import moon
from data.dataset import Dataset
from experiments.projector import SIDE
from features.store import Store
from tests.conftest import write_store


def test_the_files_are_what_the_projector_reads(market_root, tmp_path, capsys: pytest.CaptureFixture[str]):
    data, out = market_root / "data", tmp_path / "projector"
    store = write_store(tmp_path / "store", data)
    assert moon.main(["inspect", str(store), "--data", str(data), "--projector", str(out)]) == 0
    config = text_format.Parse((out / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    assert list(embedding.sprite.single_image_dim) == [SIDE, SIDE]
    vectors = np.loadtxt(out / embedding.tensor_path, delimiter="\t")
    head, *rows = (out / embedding.metadata_path).read_text().splitlines()
    assert head.split("\t") == ["title", "category", "item_id"] and len(rows) == len(vectors)
    version, items = Store(store).current, Dataset(data).items().collect()
    item = {str(i): n for n, i in enumerate(items["item_id"])}
    places = np.array([item[row.split("\t")[2]] for row in rows])
    np.testing.assert_allclose(vectors, version.vectors(places)[0], atol=1e-5)
    sprite = Image.open(out / embedding.sprite.image_path)
    assert sprite.width == sprite.height and (sprite.width // SIDE) ** 2 >= len(rows)
    capsys.readouterr()
    assert moon.main(["inspect", str(store), "--projector", str(out)]) == 2
    assert "goes with a store and its --data" in capsys.readouterr().err
