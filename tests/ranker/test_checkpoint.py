"""Checkpoints: a failure while one is written leaves the one before, and the run goes on from it."""

import shutil
from collections import namedtuple

import pytest
import torch.distributed.checkpoint as dcp

import moon
from tests.ranker.test_train import losses

Usage = namedtuple("Usage", "total used free")


def failing_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """dcp.save writes half of a file in its `call`-th call and fails as torch does, in a BaseException of its own."""
    save, calls = dcp.save, []

    def half(state, checkpoint_id):
        calls.append(checkpoint_id)
        if len(calls) < call:
            return save(state, checkpoint_id=checkpoint_id)
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half")
        raise dcp.api.CheckpointException("", {0: (RuntimeError("unexpected pos 704 vs 598"), None)})  # pyright: ignore

    monkeypatch.setattr(dcp, "save", half)


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (0, "moon train: disk full while writing {run}; nothing half-written was published"),
        (1 << 40, "moon train: RuntimeError: {run}/checkpoints/.step-00000024: not written: "),
    ],
)
def test_a_failed_save_is_one_line_and_the_run_goes_on_from_the_one_before(
    free, message, tiny, small, tmp_path, capsys, monkeypatch
):
    words = ["train", str(tiny), "--data", str(small), "--set", "train.checkpoint_every=10", "--out"]
    assert moon.main([*words, str(tmp_path / "whole")]) == 0
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
    assert losses(run) == losses(tmp_path / "whole")
