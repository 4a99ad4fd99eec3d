"""A run that is killed, terminated or spread over ranks ends with the losses of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from tests.ranker.conftest import TINY
from tests.ranker.test_train import losses

LONG = {**TINY, "train": {**TINY["train"], "epochs": 30, "batch_size": 64, "checkpoint_every": 5}}


def command(config: Path, dataset: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "moon", "train", str(config), "--data", str(dataset), "--out", str(out), *more]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}


def finish(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)


def started(words: list[str], out: Path, steps: int) -> subprocess.Popen[str]:
    """The command, running, with at least `steps` losses logged."""
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").is_file() and len((out / "metrics.jsonl").read_text().splitlines()) >= steps:
            return process
        time.sleep(0.01)
    pytest.fail(f"the run ended or hung before step {steps}: {process.stderr and process.stderr.read()}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small: Path) -> tuple[Path, Path]:
    """(config, finished run) of the long recipe."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "long.yaml").write_text(yaml.safe_dump(LONG))
    done = finish(command(root / "long.yaml", small, root / "run"))
    assert done.returncode == 0, done.stderr
    return root / "long.yaml", root / "run"


def same(a: Path, b: Path) -> None:
    assert losses(a) == losses(b) and len(losses(a)) > 500
    scores = [pl.read_parquet(run / "predictions.parquet")["score"] for run in (a, b)]
    assert scores[0].equals(scores[1])


def test_kill_9_in_mid_epoch_then_resume_is_bit_identical(undisturbed, small, tmp_path):
    config, reference = undisturbed
    out = tmp_path / "run"
    for steps in (13, 123):
        process = started(command(config, small, out, "--resume"), out, steps)
        process.kill()
        process.wait()
        assert not (out / "predictions.parquet").exists()
    done = finish(command(config, small, out, "--resume"))
    assert done.returncode == 0, done.stderr
    same(reference, out)


def test_sigterm_saves_where_it_stands_and_exits_143(undisturbed, small, tmp_path):
    config, reference = undisturbed
    out = tmp_path / "run"
    process = started(command(config, small, out), out, 33)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait() == 143
    assert "stopped by SIGTERM after step" in error and "continue with --resume" in error
    state = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    assert state["progress"]["step"] == int(error.split("after step ")[1].split(";")[0])
    done = finish(command(config, small, out, "--resume"))
    assert done.returncode == 0, done.stderr
    same(reference, out)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_two_ranks_learn_what_one_learns_from_the_union_batch(kind, small, tmp_path):
    """SGD, whose steps do not blow rounding up as the first steps of Adam and Adagrad do (they are +-lr whatever the
    gradient's size)."""
    config = tmp_path / "tiny.yaml"
    sgd = {"tables": {"kind": "sgd", "lr": 1.0}, "dense": {"kind": "sgd", "lr": 0.1}, "batch_size": 64}
    config.write_text(yaml.safe_dump({**TINY, "train": {**TINY["train"], **sgd}}))
    one = finish(command(config, small, tmp_path / "one", "--set", "train.batch_size=128"))
    two = finish(command(config, small, tmp_path / "two", "--nproc", "2", "--set", f"sharding.kinds=[{kind}]"))
    assert one.returncode == 0 and two.returncode == 0, two.stderr
    assert two.stdout.count(kind) == 4
    a, b = (pl.read_parquet(tmp_path / name / "predictions.parquet")["score"].to_numpy() for name in ("one", "two"))
    assert np.abs(a - b).max() < 5e-5 < 2e-3 < a.std()
    done = finish([sys.executable, "-m", "moon", "eval", str(tmp_path / "two"), "--json", str(tmp_path / "again.json")])
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert json.loads((tmp_path / "again.json").read_text())["auc"] == pytest.approx(first["auc"], abs=1e-9)
