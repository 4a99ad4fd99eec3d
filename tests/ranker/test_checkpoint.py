"""Checkpoints: a failure while one is written leaves the one before, and the run goes on from it."""

import json
import shutil
import threading
import time
from collections import namedtuple

import pytest
import torch.distributed.checkpoint as dcp
import yaml

import moon
from ranker.train import Trainer
from tests.ranker.conftest import TINY
from tests.ranker.test_train import losses

Usage = namedtuple("Usage", "total used free")


def failing_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """dcp.save writes half of a file in its `call`-th call and fails as torch does, in a BaseException of its own."""
    save, calls = dcp.save, []

    def half(state, checkpoint_id, **others):
        calls.append(checkpoint_id)
        if len(calls) < call:
            return save(state, checkpoint_id=checkpoint_id, **others)
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half")
        raise dcp.api.CheckpointException("", {0: (RuntimeError("unexpected pos 704 vs 598"), None)})  # pyright: ignore

    monkeypatch.setattr(dcp, "save", half)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """Losses of the tiny recipe, undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert moon.main(["train", str(root / "tiny.yaml"), "--data", str(small), "--out", str(root / "run")]) == 0
    return losses(root / "run")


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (0, "moon train: disk full while writing {run}; nothing half-written was published"),
        (1 << 40, "moon train: RuntimeError: {run}/checkpoints/.step-00000024: not written: "),
    ],
)
def test_a_failed_save_is_one_line_and_the_run_goes_on_from_the_one_before(
    free, message, whole, tiny, small, tmp_path, capsys, monkeypatch
):
    words = ["train", str(tiny), "--data", str(small), "--set", "train.checkpoint_every=10", "--out"]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing_at(4, patch)  # steps 10, 12 (end of the epoch), 20, 24
        patch.setattr(shutil, "disk_usage", lambda folder: Usage(1 << 40, 0, free))
        capsys.readouterr()
        assert moon.main([*words, str(run)]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moon")]
    assert len(error) == 1 and error[0].startswith(message.format(run=run))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best", "last", "step-00000012", "step-00000020"]
    assert moon.main([*words, str(run), "--resume"]) == 0
    assert losses(run) == whole


def test_checkpoints_written_while_training_goes_on_hold_the_step_they_are_of(
    whole, tiny, small, tmp_path, monkeypatch
):
    """Slow saves, so that steps pass meanwhile; then the process dies, and goes on as if nothing had been."""
    words = ["train", str(tiny), "--data", str(small), "--set", "train.checkpoint_every=5", "--out"]
    run, asynchronous = tmp_path / "run", ["--set", "train.async_checkpoints=true"]
    save, step, during = dcp.save, Trainer.train_step, []

    def slow(state, **arguments):
        before, deadline = len(taken), time.monotonic() + 10
        while len(taken) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        save(state, **arguments)
        during.append(len(taken) - before)

    taken = []

    def dying(trainer, batch):
        taken.append(1)
        if len(taken) == 19:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(dcp, "save", slow)
        patch.setattr(Trainer, "train_step", dying)
        assert moon.main([*words, str(run), *asynchronous]) == 130
    assert max(during) > 0
    last = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    assert last["progress"]["step"] == 15
    assert moon.main([*words, str(run), *asynchronous, "--resume"]) == 0
    assert losses(run) == whole


def cut(folder):
    file = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-40])


def scramble(folder):
    """A file of the right length and wrong content."""
    file = folder / ".metadata"
    file.write_bytes(bytes(reversed(file.read_bytes())))


@pytest.mark.parametrize("damage", [cut, scramble, lambda folder: (folder / "state.json").unlink()])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(
    damage, whole, tiny, small, tmp_path, capsys, monkeypatch
):
    words = ["train", str(tiny), "--data", str(small), "--set", "train.checkpoint_every=10", "--out"]
    run, evaluate = tmp_path / "run", Trainer._evaluate
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", lambda t, *a, **k: evaluate(t, *a, **k) if t.progress.step < 24 else 1 / 0)
        assert moon.main([*words, str(run)]) == 1
    checkpoints = run / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["best", "last", "step-00000012", "step-00000020"]
    damage(checkpoints / "step-00000020")
    capsys.readouterr()
    assert moon.main([*words, str(run), "--resume"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moon:")]
    assert len(said) == 1 and "damaged" in said[0] and said[0].endswith("going on from step-00000012")
    assert losses(run) == whole


def test_a_save_that_fails_while_training_ends_by_an_exception_is_told(tiny, small, tmp_path, capsys, monkeypatch):
    words = ["train", str(tiny), "--data", str(small), "--set", "train.checkpoint_every=5"]
    run, stop = tmp_path / "run", threading.Event()

    def failing(state, **arguments):
        assert stop.wait(60)
        raise OSError("the disk is gone")

    def dying(trainer, batch):
        if trainer.progress.step == 5:
            stop.set()
            raise KeyboardInterrupt
        return step(trainer, batch)

    step = Trainer.train_step
    monkeypatch.setattr(dcp, "save", failing)
    monkeypatch.setattr(Trainer, "train_step", dying)
    assert moon.main([*words, "--out", str(run), "--set", "train.async_checkpoints=true"]) == 130
    assert "the last checkpoint is not written: the disk is gone" in capsys.readouterr().err
    assert not list((run / "checkpoints").iterdir())
