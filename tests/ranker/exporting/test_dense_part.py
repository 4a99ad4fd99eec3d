"""Every mechanism, eager and exported, on every shape of batch: 1, 7, 512 rows, no and full histories, all unknown."""

import io
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.dataset import Dataset
from features.batch import Batch
from features.collate import Collator
from features.encoder import FeatureEncoder
from features.samples import SampleEncoder
from features.vector_source import open_sources
from ranker.exporting.dense_part import DensePart, exported
from ranker.model import Ranker
from ranker.serving.dense_inputs import flat_inputs
from tests.conftest import write_store
from tests.ranker.exporting.recipes import (
    EVERYTHING,
    RECIPES,
    kinds_in_the_code,
    kinds_in_the_recipes,
    recipe,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(small, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "image", small)


def build(config, small, store):
    """An untrained ranker with random tables, and batches of every shape by name."""
    torch.manual_seed(0)
    sources = open_sources(config.features, Dataset(small), {v.name: store for v in config.features.vectors})
    encoder = FeatureEncoder.fit(config.features, Dataset(small), sources)
    samples = SampleEncoder(encoder, Dataset(small), sources)
    ranker = Ranker(config, encoder, samples.vectors, CPU).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.normal_(std=0.1)
    return ranker, batches(samples)


def batches(samples: SampleEncoder) -> dict[str, Batch]:
    frame = samples.dataset.samples("train").collect().with_row_index("row")
    window = samples.window(frame.select(pl.col("row").cast(pl.Int64), *samples.read_columns))
    collate, rng = Collator(samples).collate, np.random.default_rng(0)
    empty = replace(window, history_end=np.zeros_like(window.history_end))
    longest = np.argsort(-window.history_end)
    found = {}
    for rows in (1, 7, 512):
        found[f"{rows} rows"] = collate(window, rng.integers(0, len(window), rows))
        found[f"{rows} without history"] = collate(empty, np.arange(rows))
        found[f"{rows} with the longest"] = collate(window, longest[:rows])
    for users in (1, 7):  # with many candidates each, as many as it happens
        context = np.sort(np.resize(rng.integers(0, users, 100), len(window)))
        found[f"{users} users"] = collate(replace(window, context=context), np.arange(len(window)))
        found[f"{users} users without history"] = collate(replace(empty, context=context), np.arange(9))
    found["32768 behaviours and more"] = collate(window, np.resize(longest[:300], 2000))
    found["some without"] = collate(replace(window, history_end=window.history_end * (window.row % 2)), np.arange(9))
    some = found["7 rows"]
    found["unknown ids"] = replace(some, ids={dim: _zeros(keyed) for dim, keyed in some.ids.items()})
    found["no vectors"] = replace(some, vectors={name: ids * 0 for name, ids in some.vectors.items()})
    return found


def _zeros(keyed: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(keyed.keys(), torch.zeros_like(keyed.values()), lengths=keyed.lengths())


def expected(ranker: Ranker, shapes: dict[str, Batch]):
    """Eager logits, and the flat inputs of the exported program, by name."""
    with torch.no_grad():
        logits = {name: ranker(batch) for name, batch in shapes.items()}
        return logits, {name: flat_inputs(ranker.lookup(batch), batch) for name, batch in shapes.items()}


def read_back(program: torch.export.ExportedProgram):
    """The program as it is after it was saved and loaded."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


def test_every_mechanism_has_its_line():
    assert kinds_in_the_recipes() == kinds_in_the_code()


@pytest.mark.parametrize("name", RECIPES)
def test_the_program_gives_the_eager_logits(name, small, store):
    ranker, shapes = build(recipe(*RECIPES[name]), small, store)
    logits, inputs = expected(ranker, shapes)
    program = read_back(exported(DensePart(ranker, shapes["512 rows"]), inputs["512 rows"]))
    with torch.no_grad():
        for shape, flat in inputs.items():
            assert torch.allclose(program(flat), logits[shape], atol=1e-6, rtol=1e-5), shape
    assert len({round(x, 4) for x in logits["7 rows"].tolist()}) > 3  # the scores do differ


def test_a_program_is_traced_from_a_batch_whatever_is_empty_in_it(small, store):
    ranker, shapes = build(recipe(*EVERYTHING), small, store)
    logits, inputs = expected(ranker, shapes)
    program = exported(DensePart(ranker, shapes["1 without history"]), inputs["1 without history"]).module()
    with torch.no_grad():
        assert torch.allclose(program(inputs["512 rows"]), logits["512 rows"], atol=1e-6, rtol=1e-5)


def test_bfloat16_weights_and_arithmetic(small, store):
    ranker, shapes = build(recipe(*EVERYTHING), small, store)
    logits, inputs = expected(ranker, shapes)
    part = DensePart(ranker, shapes["7 rows"], torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in part.parameters())
    program = exported(part, inputs["7 rows"]).module()
    with torch.no_grad():
        for shape, flat in inputs.items():
            found = torch.sigmoid(program(flat))
            assert found.dtype == torch.float32 and (found - torch.sigmoid(logits[shape])).abs().max() < 0.05, shape
