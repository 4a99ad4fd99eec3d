"""Training that follows its stores: a version published meanwhile is read after an evaluation; faults."""

import json

import numpy as np
import pytest
import yaml

import ranker.train
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from features.ranks import process_group
from features.store import Store
from features.store_writer import StoreWriter
from ranker.build import load_ranker
from ranker.config import Recipe
from ranker.run_folder import RunFolder
from ranker.train import train
from tests.conftest import write_store
from tests.ranker.conftest import TINY

EVALS = {"epochs": 2, "evals_per_epoch": 2, "batch_size": 64, "checkpoint_every": 3}


@pytest.fixture
def recipe(tmp_path):
    """The tiny recipe with the target's vector as input, judged four times."""
    features = TINY["features"] | {"vectors": [{"name": "image"}]}
    model = TINY["model"] | {"content": [{"kind": "concat", "vectors": "image"}]}
    path = tmp_path / "recipe.yaml"
    whole = TINY | {"features": features, "model": model, "train": TINY["train"] | EVALS}
    path.write_text(yaml.safe_dump(whole))
    return path


class Killed(Exception):
    pass


@pytest.fixture
def play(recipe, small, tmp_path, monkeypatch):
    """Trains into `name`; `publish` runs at the first evaluation, and step `dies` raises Killed once."""

    def run(name, store, *changes, publish=None, dies=None, resume=False):
        judged, figures, step = [], ranker.train.valid_figures, ranker.train.Trainer.train_step

        def judge(*words):
            judged.append(1)
            if len(judged) == 1 and publish is not None:
                publish()
            return figures(*words)

        def trained(self, batch):
            if self.progress.step == dies:
                raise Killed
            return step(self, batch)

        with monkeypatch.context() as patch, process_group() as ranks:
            patch.setattr(ranker.train, "valid_figures", judge)
            patch.setattr(ranker.train.Trainer, "train_step", trained)
            made = load_config(recipe, Recipe, ["train.follow_stores=true", *changes])
            train(made, Dataset(small), tmp_path / name, ranks, resume, {"image": store})
        return RunFolder(tmp_path / name)

    return run


def losses(run):
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def moves(run):
    return [(move["step"], move["versions"]["image"]) for move in run.meta()["store_moves"]]


def grown(store, small, encoder="random"):
    """A second version: other vectors, of three items more."""
    items = Dataset(small).meta["counts"]["items"] + 3
    vectors = np.random.default_rng(5).normal(size=(items, 8))
    fingerprint = Dataset(small).fingerprint
    with StoreWriter(store, items, 8, encoder=encoder, matryoshka=(4,), dataset_fingerprint=fingerprint) as writer:
        writer.put(np.arange(items), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        writer.publish()


def test_a_version_is_read_after_the_next_evaluation_and_after_a_fault_the_same(play, small, tmp_path):
    stores = [write_store(tmp_path / name, small) for name in ("still", "moved", "killed")]
    still = play("still", stores[0])
    moved = play("moved", stores[1], publish=lambda: grown(stores[1], small))
    assert moves(still) == [(-1, 1)]
    (_, first), (at, second) = moves(moved)
    assert (first, second) == (1, 2)
    a, b = losses(still), losses(moved)
    same = [x == y for x, y in zip(a, b, strict=True)]
    assert at in range(2, len(a) - 2) and all(same[:at]) and not any(same[at:])
    with pytest.raises(Killed):  # after the move and the next checkpoint, when a third version is there
        play("killed", stores[2], publish=lambda: grown(stores[2], small), dies=at + 4)
    grown(stores[2], small)
    play("killed", stores[2], resume=True)
    killed = RunFolder(tmp_path / "killed")
    again = moves(killed)
    assert again[:2] == moves(moved) and again[2][1] == 3 and losses(killed)[: again[2][0]] == b[: again[2][0]]


def test_the_best_checkpoint_keeps_its_versions(play, small, tmp_path):
    store = write_store(tmp_path / "store", small)
    run = play("run", store, "train.dense.lr=1.0", "train.tables.lr=5.0", publish=lambda: grown(store, small))
    best = int((run.checkpoints / "best").resolve().name.removeprefix("step-"))
    version = [number for step, number in moves(run) if step < best][-1]
    assert run.meta()["stores"]["image"]["version"] == version
    with process_group() as ranks:
        _, samples = load_ranker(run, Dataset(small), ranks)
    assert samples.vectors["image"].version.number == version
    assert run.metrics("test").is_file()


def test_a_version_of_another_encoder_is_left_alone_and_said(play, small, tmp_path, capsys):
    store = write_store(tmp_path / "store", small)
    run = play("run", store, publish=lambda: grown(store, small, "another"))
    assert moves(run) == [(-1, 1)] and Store(store).current.number == 2
    assert "staying with version 1: " in (said := capsys.readouterr().err) and "has encoder another, not random" in said


def test_without_following_a_resumed_run_keeps_its_version(play, small, tmp_path):
    stores = [write_store(tmp_path / name, small) for name in ("a", "b")]
    whole = play("whole", stores[0], "train.follow_stores=false")
    with pytest.raises(Killed):
        play("run", stores[1], "train.follow_stores=false", dies=7)
    grown(stores[1], small)
    run = play("run", stores[1], "train.follow_stores=false", resume=True)
    assert losses(run) == losses(whole) and run.meta()["stores"]["image"]["version"] == 1


def test_a_version_that_is_gone_gives_way_to_the_newest(play, small, tmp_path, capsys):
    store = write_store(tmp_path / "store", small)
    with pytest.raises(Killed):
        play("run", store, dies=9)
    grown(store, small)
    (store / "v00000001").rename(tmp_path / "gone")
    run = play("run", store, resume=True)
    assert "version 1 of the store is gone" in capsys.readouterr().err
    assert run.meta()["stores"]["image"]["version"] == 2


def test_following_needs_vectors_that_stay_as_stored(recipe):
    with pytest.raises(InputError, match=r"follow_stores: no features.vectors are frozen or projected"):
        load_config(recipe, Recipe, ["train.follow_stores=true", "features.vectors.image.mode=finetuned"])
