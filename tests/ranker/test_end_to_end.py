"""Vectors in end_to_end mode, with a plain module as the encoder."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import moon
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from features.loader import Loader
from features.ranks import process_group
from features.vector_source import open_sources
from ranker.build import load_ranker
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.run_folder import RunFolder
from ranker.train import Trainer, train
from tests.conftest import write_store
from tests.ranker.conftest import TINY
from tests.ranker.test_item_vectors import table
from tests.ranker.test_train import losses

DIM = 8
VECTORS = {"name": "image", "mode": "end_to_end", "lr": 0.02}


class PlainEncoder(nn.Module):
    """Fixed pixels of every item, a frozen and a trained layer, dropout in training; counts what it encodes."""

    def __init__(self, items: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.register_buffer("pixels", torch.randn(items, 12, generator=g), persistent=False)
        self.frozen, self.trained = nn.Linear(12, 12), nn.Linear(12, 10)
        with torch.no_grad():
            for weight in (self.frozen.weight, self.trained.weight):
                weight.copy_(torch.randn(weight.shape, generator=g) * 0.3)
            for bias in (self.frozen.bias, self.trained.bias):
                bias.zero_()
        self.frozen.requires_grad_(False)
        self.seen: list[int] = []

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(items))
        hidden = F.dropout(torch.tanh(self.frozen(self.pixels[items])), 0.2, self.training)
        return self.trained(hidden)


@pytest.fixture
def store(small, tmp_path):
    return write_store(tmp_path / "store", small)


@pytest.fixture
def recipe(tmp_path):
    """Target and history by content; ids only of users."""
    features = TINY["features"] | {
        "features": [TINY["features"]["features"][0], *TINY["features"]["features"][1:]],
        "vectors": [VECTORS],
        "sequences": [TINY["features"]["sequences"][0] | {"numbers": ["surprise", "action"]}],
    }
    kinds = [
        {"kind": "quality", "vectors": "image", "hidden": [6]},
        {"kind": "residual", "vectors": "image", "sequence": "rated"},
        {"kind": "cube", "vectors": "image", "sequences": ["rated"]},
    ]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(TINY | {"features": features, "model": TINY["model"] | {"content": kinds}}))
    return path


def run(recipe, small, store, out, *changes, encoder=None, resume=False):
    """Train; the encoder as it ended and its start."""
    dataset = Dataset(small)
    encoder = encoder or PlainEncoder(dataset.meta["counts"]["items"])
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    with process_group() as ranks:
        config = load_config(recipe, Recipe, list(changes))
        train(config, dataset, out, ranks, resume, {"image": store}, {"image": lambda source: encoder})
    return encoder, start


def test_the_click_loss_trains_the_encoder_and_nothing_that_is_frozen(recipe, small, store, tmp_path):
    encoder, start = run(recipe, small, store, tmp_path / "run")
    end = encoder.state_dict()
    assert torch.equal(end["frozen.weight"], start["frozen.weight"])
    assert torch.equal(end["frozen.bias"], start["frozen.bias"])
    assert (end["trained.weight"] - start["trained.weight"]).abs().max() > 0.02
    run(recipe, small, store, tmp_path / "still", "features.vectors.image.lr=1e-12")
    moving, still = (np.array(losses(tmp_path / name)) for name in ("run", "still"))
    assert moving[0] == still[0] and moving[-8:].mean() < moving[:8].mean() - 0.03
    assert moving[-8:].mean() < still[-8:].mean()


def test_the_judged_table_is_what_the_encoder_says_and_serves_without_it(recipe, small, store, tmp_path):
    encoder, _ = run(recipe, small, store, tmp_path / "run")
    with process_group() as ranks:
        model, samples = load_ranker(RunFolder(tmp_path / "run"), Dataset(small), ranks)
        items = torch.arange(samples.vectors["image"].table_rows - 1)
        expected = F.normalize(encoder.eval()(items)[:, :DIM], dim=1).detach()
        expected[::5] = 0  # no vector in the store
        assert torch.allclose(table(model)[1:], expected, atol=1e-6) and not table(model)[0].any()
    before = (tmp_path / "run" / "predictions.parquet").read_bytes()
    assert moon.main(["eval", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "predictions.parquet").read_bytes() == before


def test_in_a_step_only_the_targets_are_encoded_and_their_gradient_is_the_plain_one(recipe, small, store, tmp_path):
    dataset = Dataset(small)
    encoder = PlainEncoder(dataset.meta["counts"]["items"])
    with process_group() as ranks:
        config = load_config(recipe, Recipe, ["train.tables.lr=1e-12"])  # tables move in the backward pass itself
        sources = open_sources(config.features, dataset, {"image": store})
        encoders = ItemEncoders({"image": lambda source: encoder}, sources, ranks)
        trainer = Trainer(config, dataset, sources, RunFolder(tmp_path / "run"), ranks, encoders)
        encoders.refresh(trainer.model)
        encoders.modules.eval()
        encoder.seen.clear()
        batch = next(Loader(trainer.samples, "train", 64).epoch())
        trainer.model.eval()
        encoded = encoders.encode(batch)["image"]
        targets = batch.items[batch.target]
        assert encoder.seen == [len(set(targets.tolist()) - set(range(0, len(encoder.pixels), 5)))]
        trainer.model(batch, {"image": encoded}).square().sum().backward()
        found = encoder.trained.weight.grad.clone()
        assert encoder.frozen.weight.grad is None and found.abs().max() > 0
        encoder.zero_grad()
        plain = F.normalize(encoder(targets)[:, :DIM], dim=1) * (targets % 5 != 0).unsqueeze(1)
        assert torch.allclose(plain, encoded, atol=1e-6)
        trainer.model(batch, {"image": plain}).square().sum().backward()
        assert torch.allclose(encoder.trained.weight.grad, found, atol=1e-4, rtol=1e-4)


def test_the_schedule_of_refreshes(recipe, small, store, tmp_path):
    """Per refresh all items that have a vector: at the start, at every evaluation, and every refresh_steps."""

    def refreshes(out, *changes):
        encoder, _ = run(recipe, small, store, out, *changes)
        every = sum(i % 5 != 0 for i in range(len(encoder.pixels)))
        return sum(n == every for n in encoder.seen)

    steps = 2 * -(-Dataset(small).meta["counts"]["train"] // 128)
    assert refreshes(tmp_path / "a") == 1 + 2
    found = refreshes(tmp_path / "b", "features.vectors.image.refresh_steps=4")
    assert found == 1 + len({*range(4, steps + 1, 4), steps // 2, steps})


def test_overlapping_steps_change_nothing(recipe, small, store, tmp_path):
    often = ("features.vectors.image.refresh_steps=3", "train.epochs=1")
    plain, _ = run(recipe, small, store, tmp_path / "plain", *often)
    pipelined, _ = run(recipe, small, store, tmp_path / "pipelined", *often, "train.pipeline=true")
    assert losses(tmp_path / "pipelined") == losses(tmp_path / "plain")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), pipelined.parameters(), strict=True))


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_bit_for_bit(recipe, small, store, tmp_path, monkeypatch):
    often = ("train.checkpoint_every=5", "features.vectors.image.refresh_steps=3", "train.epochs=2")
    whole, _ = run(recipe, small, store, tmp_path / "whole", *often)
    step, done = Trainer.train_step, []

    def dying(self, batch):
        done.append(1)
        if len(done) == 18:
            raise Killed
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", dying)
    with pytest.raises(Killed):
        run(recipe, small, store, tmp_path / "cut", *often)
    monkeypatch.setattr(Trainer, "train_step", step)
    cut, _ = run(recipe, small, store, tmp_path / "cut", *often, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    scores = [(tmp_path / name / "predictions.parquet").read_bytes() for name in ("cut", "whole")]
    assert scores[0] == scores[1]
    other = PlainEncoder(Dataset(small).meta["counts"]["items"])
    nn.init.ones_(other.trained.weight)
    with pytest.raises(InputError, match="needs the encoder 'image' that the run began with; this is another"):
        run(recipe, small, store, tmp_path / "cut", *often, encoder=other, resume=True)


def test_mistakes_are_one_line(recipe, small, store, tmp_path):
    with process_group() as ranks:
        config, dataset = load_config(recipe, Recipe, []), Dataset(small)
        with pytest.raises(InputError, match="'image' are end_to_end and need an encoder; give --encoder image=DIR"):
            train(config, dataset, tmp_path / "a", ranks, stores={"image": store})
        frozen = load_config(recipe, Recipe, ["features.vectors.image.mode=frozen"])
        opener = {"image": lambda source: nn.Identity()}
        with pytest.raises(InputError, match="no vectors of this name with mode end_to_end"):
            train(frozen, dataset, tmp_path / "b", ranks, stores={"image": store}, encoders=opener)

        class Narrow(PlainEncoder):
            def forward(self, items):
                return super().forward(items)[:, :4]

        narrow = {"image": lambda source: Narrow(dataset.meta["counts"]["items"])}
        with pytest.raises(InputError, match=r"gives 4 dimensions, features\.vectors 'image' reads 8"):
            train(config, dataset, tmp_path / "c", ranks, stores={"image": store}, encoders=narrow)


def test_a_shuffled_control_encodes_what_the_row_holds(recipe, small, store, tmp_path):
    changes = "features.vectors.image.shuffle=3"
    run(recipe, small, store, tmp_path / "run", changes)
    with process_group() as ranks:
        _, samples = load_ranker(RunFolder(tmp_path / "run"), Dataset(small), ranks)
        source = samples.vectors["image"]
        items = np.array([1, 2, 3, 4])
        content = source.item_of_row[source.rows(items)]
        assert (content != items).any() and (content % 5 != 0).all() and (source.item_of_row[1::5] == -1).all()
    facts = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert len(facts["encoders"]["image"]) == 64
