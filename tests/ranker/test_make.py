"""MAKE: its layers against plain float64 loops; a first phase that trains it alone, resumes bit for bit, and ends."""

import json

import pytest
import torch
import yaml

from data.config import load_config
from data.dataset import Dataset
from features.ranks import process_group
from features.vector_source import open_sources
from ranker import make_training
from ranker.build import build_ranker, load_ranker
from ranker.config import Recipe
from ranker.content_config import Make
from ranker.make import MakeExtractor
from ranker.run_folder import RunFolder
from ranker.train import Interrupted, train
from tests.conftest import write_store
from tests.ranker.conftest import TINY
from tests.ranker.evidence import M, assert_same, histories, leaves, make_evidence

P = 5


def made(numbers=("surprise",), then="trained", **kwargs):
    torch.manual_seed(3)
    config = Make(
        kind="make", vectors="image", sequence="seq", numbers=numbers, width=P, attention=(4,), tower=(6, 3), then=then
    )  # pyright: ignore
    return make_evidence(**kwargs), MakeExtractor(config, M).double()


def reference(module, e):
    rows, first, last = [], module.attention.layers[0], module.attention.output
    for i, h in enumerate(histories(e)):
        present = e.content["image"].target_present_B[i]
        there = e.content["image"].present_U[e.behaviours["seq"].sequence.item[e.behaviours["seq"].sequence.row == i]]
        p_t = module.projection(h.r_t / h.r_t.norm()) if present else h.r_t.new_zeros(P)
        interest = p_t.new_zeros(module.attention.width)
        if there.any():
            r_b = h.r_b[there]
            p_b, number = module.projection(r_b / r_b.norm(dim=1, keepdim=True)), h.numbers[there].unsqueeze(1)
            number = number if module.config.numbers else number[:, :0]
            q = p_t.expand_as(p_b)
            x = torch.cat([q, p_b, q - p_b, q * p_b, number], 1)
            w = torch.softmax(torch.relu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias, 0)
            interest = (w * torch.cat([p_b, number], 1)).sum(0)
        v = torch.cat([p_t, interest, present.double().reshape(1)])
        h_1 = torch.relu(module.hidden[0](torch.cat([v, p_t * interest[:P]])))
        h_2 = torch.relu(module.hidden[1](h_1))
        rows.append(torch.cat([v, h_1, h_2, module.output(h_2)]))
    return torch.stack(rows)


@pytest.mark.parametrize("numbers", [("surprise",), ()], ids=["numbers", "plain"])
def test_equals_the_reference_forward_and_backward(numbers):
    e, module = made(numbers)
    found = module(e)
    assert found.shape == (7, module.width)
    assert_same(found, reference(module, e), [*module.parameters(), *leaves(e).values()])
    assert torch.equal(module.logits(e.content["image"], e.batch.sequences["seq"], e.batch.target), found[:, -1])
    empty, module = made(numbers, lengths=[0, 0])
    assert torch.isfinite(module(empty)).all()


def test_a_search_before_it_takes_nothing_away():
    e, module = made()
    before = module(e)
    e.narrow("seq", torch.tensor([0, 1]))
    assert torch.equal(module(e), before)


@pytest.fixture(scope="module")
def store(small, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "image", small)


@pytest.fixture
def recipe(tmp_path):
    sequences = [{**TINY["features"]["sequences"][0], "numbers": ["surprise"]}]
    features = TINY["features"] | {"vectors": [{"name": "image"}], "sequences": sequences}
    make = {"kind": "make", "vectors": "image", "sequence": "rated", "numbers": ["surprise"], "epochs": 3}
    make |= {"width": 4, "attention": [4], "tower": [6, 3], "lr": 0.01}
    path = tmp_path / "make.yaml"
    path.write_text(yaml.safe_dump(TINY | {"features": features, "model": TINY["model"] | {"content": [make]}}))
    return path


def run(recipe, small, store, out, *changes, resume=False):
    """Train; the weights of MAKE that its own phase ended with, and those of the trained model."""
    with process_group() as ranks:
        train(load_config(recipe, Recipe, list(changes)), Dataset(small), out, ranks, resume, {"image": store})
        model, _ = load_ranker(RunFolder(out), Dataset(small), ranks)
        saved = torch.load(out / "pretraining" / "make0.pt", weights_only=True)
        return saved, model.module.content[0].state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_trained_first_and_then_frozen_or_trained_on(recipe, small, store, tmp_path):
    start = build(load_config(recipe, Recipe), small, store)
    for then in ("frozen", "trained"):
        saved, end = run(recipe, small, store, tmp_path / then, f"model.content.0.then={then}")
        best = saved["state"]["best"]
        assert not any(torch.equal(start[name], best[name]) for name in best)
        assert same(best, end) == (then == "frozen")
        passes = json.loads((tmp_path / then / "pretraining" / "make0.json").read_text())["passes"]
        assert [p["pass"] for p in passes] == [1, 2, 3] and passes[-1]["loss"] < passes[0]["loss"]
        chosen = max((p for p in passes if p["best"]), key=lambda p: p["pass"])
        assert chosen["valid"]["auc"] == max(p["valid"]["auc"] for p in passes)
    counted = json.loads((tmp_path / "frozen" / "meta.json").read_text())["parameters"]["dense"]
    assert counted == json.loads((tmp_path / "trained" / "meta.json").read_text())["parameters"]["dense"]


def build(recipe, small, store):
    from features.encoder import FeatureEncoder
    from features.samples import SampleEncoder

    sources = open_sources(recipe.features, Dataset(small), {"image": store})
    encoder = FeatureEncoder.fit(recipe.features, Dataset(small), sources)
    with process_group() as ranks:
        model, _ = build_ranker(recipe, SampleEncoder(encoder, Dataset(small), sources), ranks)
        return {name: value.clone() for name, value in model.module.content[0].state_dict().items()}


def test_a_phase_cut_off_goes_on_bit_for_bit(recipe, small, store, tmp_path, monkeypatch):
    _, whole = run(recipe, small, store, tmp_path / "whole")
    real, calls = make_training._Phase.run, []

    def cut(self, stop):
        return real(self, lambda: calls.append(0) or len(calls) == 20)

    monkeypatch.setattr(make_training._Phase, "run", cut)
    with pytest.raises(Interrupted, match="before the first step"):
        run(recipe, small, store, tmp_path / "cut")
    monkeypatch.undo()
    at = torch.load(tmp_path / "cut" / "pretraining" / "make0.pt", weights_only=True)["state"]
    assert at["epoch"] == 1 and at["batch"] > 0 and not (tmp_path / "cut" / "checkpoints").exists()
    _, resumed = run(recipe, small, store, tmp_path / "cut", resume=True)
    assert same(whole, resumed)
    lines = [(tmp_path / name / "predictions.parquet").read_bytes() for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    weights = tmp_path / "cut" / "pretraining" / "make0.pt"
    before = weights.stat().st_mtime_ns
    run(recipe, small, store, tmp_path / "cut", resume=True)
    assert weights.stat().st_mtime_ns == before


def test_shuffled_vectors_are_shuffled_in_its_own_phase_as_well(recipe, small, store, tmp_path):
    """The phase reads the ranker's own sources: what it sees of an item is what the model sees of it."""
    seen = load_config(recipe, Recipe, ["features.vectors.image.shuffle=1"])
    sources = open_sources(seen.features, Dataset(small), {"image": store})
    from features.encoder import FeatureEncoder
    from features.samples import SampleEncoder

    samples = SampleEncoder(FeatureEncoder.fit(seen.features, Dataset(small), sources), Dataset(small), sources)
    module = MakeExtractor(seen.model.content[0], 8)  # pyright: ignore
    own = make_training.vector_samples(module, samples)
    assert own.vectors["image"] is sources["image"] and own.encoder.spec.vectors[0].shuffle == 1
    assert own.encoder.spec.lookups() == [] and own.encoder.spec.sequences[0].length == 20
