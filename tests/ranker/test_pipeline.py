"""Steps that overlap by TorchRec's pipeline, on one rank; tests.ranker.two_ranks has two."""

import json

import pytest

from data.dataset import Dataset
from features.ranks import process_group
from ranker import pipeline
from ranker.run_folder import RunFolder
from ranker.train import train
from tests.conftest import write_store
from tests.ranker.exporting.recipes import EVERYTHING, RECIPES, recipe


@pytest.mark.parametrize("name", ["everything", "finetuned"])
def test_overlapping_steps_give_the_same_losses_and_scores(name, small, tmp_path, monkeypatch):
    """With projected and with trained vectors; three batches are under way, and none is left over."""
    model, features = EVERYTHING if name == "everything" else RECIPES[name]
    store, begun, under_way = write_store(tmp_path / "store", small), [], []
    run = pipeline.pipelined

    def counted(ranker, device, batches, *words):
        for done in run(ranker, device, (begun.append(1) or batch for batch in batches), *words):
            under_way.append(len(begun) - len(under_way))
            yield done

    monkeypatch.setattr("ranker.train.pipelined", counted)
    for pipelined in (False, True):
        made = recipe(model, features)
        train_ = made.train.model_copy(update={"pipeline": pipelined, "evals_per_epoch": 2, "epochs": 1})
        with process_group() as ranks:
            changed = made.model_copy(update={"train": train_})
            train(changed, Dataset(small), tmp_path / str(pipelined), ranks, stores={"image": store})
    plain, overlapped = (RunFolder(tmp_path / str(pipelined)) for pipelined in (False, True))
    losses = [
        [line["loss"] for line in map(json.loads, run.log.read_text().splitlines()) if "loss" in line]
        for run in (plain, overlapped)
    ]
    assert losses[0] == losses[1] and len(under_way) == len(losses[0]) == len(begun)
    assert max(under_way) == 3 and min(under_way) == 1
    assert plain.predictions("test").read_bytes() == overlapped.predictions("test").read_bytes()
