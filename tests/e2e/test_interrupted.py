"""A run that is killed, terminated or spread over ranks ends with the losses of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.conftest import write_store
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


def test_trained_vectors_survive_kill_9_bit_for_bit(small, tmp_path):
    vectors = [{"name": "image", "mode": "finetuned", "lr": 0.01}, {"name": "look", "mode": "projected"}]
    recipe = {
        **LONG,
        "features": LONG["features"] | {"vectors": vectors},
        "model": LONG["model"] | {"content": [{"kind": "concat", "vectors": v["name"]} for v in vectors]},
    }
    config, store = tmp_path / "vectors.yaml", write_store(tmp_path / "store", small)
    config.write_text(yaml.safe_dump(recipe))
    stores = [word for v in vectors for word in ("--store", f"{v['name']}={store}")]
    reference, out = tmp_path / "reference", tmp_path / "run"
    assert finish(command(config, small, reference, *stores)).returncode == 0
    process = started(command(config, small, out, *stores), out, 63)
    process.kill()
    process.wait()
    assert not (out / "predictions.parquet").exists()
    done = finish(command(config, small, out, *stores, "--resume"))
    assert done.returncode == 0, done.stderr
    same(reference, out)


def test_the_first_phase_of_make_survives_kill_9_bit_for_bit(small, tmp_path):
    make = {"kind": "make", "vectors": "image", "sequence": "rated", "width": 4, "tower": [4], "epochs": 12}
    recipe = {
        **LONG,
        "features": LONG["features"] | {"vectors": [{"name": "image"}]},
        "model": LONG["model"] | {"content": [make]},
        "train": LONG["train"] | {"epochs": 1},
    }
    config, store = tmp_path / "make.yaml", write_store(tmp_path / "store", small)
    config.write_text(yaml.safe_dump(recipe))
    reference, out = tmp_path / "reference", tmp_path / "run"
    words = ["--store", f"image={store}"]
    assert finish(command(config, small, reference, *words)).returncode == 0
    process = subprocess.Popen(command(config, small, out, *words), env=environment(), stdout=subprocess.DEVNULL)
    figures, deadline = out / "pretraining" / "make0.json", time.monotonic() + 120
    while not (figures.is_file() and len(json.loads(figures.read_text())["passes"]) >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(json.loads(figures.read_text())["passes"]) < 12  # in the midst of the phase
    done = finish(command(config, small, out, *words, "--resume"))
    assert done.returncode == 0, done.stderr
    passes = [json.loads((run / "pretraining" / "make0.json").read_text())["passes"] for run in (reference, out)]
    scores = [pl.read_parquet(run / "predictions.parquet")["score"] for run in (reference, out)]
    assert passes[0] == passes[1] and len(passes[0]) == 12
    assert losses(reference) == losses(out) and scores[0].equals(scores[1])


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


def test_sigterm_to_two_ranks_saves_and_one_rank_goes_on(small, tmp_path):
    """Checkpoints of two ranks load at one, which goes on at the same row with its own batches of half the rows."""
    config, epochs = tmp_path / "tiny.yaml", 8
    config.write_text(yaml.safe_dump(TINY))
    changes = ["--set", "train.batch_size=32", "--set", f"train.epochs={epochs}"]
    out = tmp_path / "run"
    two = command(config, small, out, "--nproc", "2", *changes)
    process = started(two, out, 30)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    said = [line for line in process.stderr.read().splitlines() if line.startswith("moon")]
    assert process.wait() == 143
    assert len(said) == 1 and "stopped by SIGTERM after step" in said[0]
    state = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    assert state["world_size"] == 2 and state["progress"]["step"] == len(losses(out))
    done = finish(command(config, small, out, "--resume", *changes))
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first = next(line["step"] for line in steps if "loss" in line and line["step"] > state["progress"]["step"])
    assert first == state["progress"]["step"] + 1
    rows = json.loads((small / "dataset.json").read_text())["counts"]["train"]
    whole, left = divmod(state["progress"]["batch"] * 64, 32)
    ahead = epochs - state["progress"]["epoch"]
    assert left == 0 and steps[-1]["step"] == state["progress"]["step"] + ahead * -(-rows // 32) - whole


def test_two_ranks_say_a_mistake_once(small, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    words = command(tmp_path / "tiny.yaml", small, tmp_path / "run", "--nproc", "2")
    wrong = finish([*words, "--set", "features.features.0.column=usr"])
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == ["moon train: samples: no column 'usr'; did you mean 'user'?"]
    wild = finish([*words, "--set", "train.dense.kind=sgd", "--set", "train.dense.lr=1e30"])
    said = [line for line in wild.stderr.splitlines() if line.startswith("moon")]
    assert wild.returncode == 2 and len(said) == 1 and "loss is" in said[0] and "Traceback" not in wild.stderr
    traced = finish([*words, "--set", "features.features.0.column=usr", "--debug"])
    assert traced.returncode == 2 and "Traceback" in traced.stderr
