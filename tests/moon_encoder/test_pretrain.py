"""Stage 1: what it learns, that it resumes bit for bit, several ranks, and what it says of bad input."""

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
import torch
import yaml

import moon
from data.config import load_config, parse_config
from data.dataset import Dataset
from data.prepare import prepare
from data.sources.fashion_products import FashionProducts
from features.ranks import process_group
from moon_encoder.checkpoint import encoder_info, load_encoder
from moon_encoder.content import Content
from moon_encoder.held_out import TEST, TRAIN
from moon_encoder.mllm import Mllm
from moon_encoder.pretrain import Pretrainer
from moon_encoder.pretrain_config import Pretrain
from moon_encoder.run import RunFolder
from tests.moon_encoder.products import (
    BROKEN,
    CUT_OFF,
    EMPTY_TITLE,
    LONG_TITLE,
    drawing,
    prepare_products,
    pretrain_recipe,
)

SHORT = {"epochs": 2, "checkpoint_every": 4, "evals_per_epoch": 1}


def command(config: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["encoder", "pretrain", str(config), "--data", str(data), "--out", str(out), *more]


def recipe_file(folder: Path, **train: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(pretrain_recipe(**train)))
    return path


def started(words: list[str]) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, "-m", "moon", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(out: Path) -> list[float]:
    return [
        line["loss"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in line
    ]


def wait_for(out: Path, steps: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").is_file() and len((out / "metrics.jsonl").read_text().splitlines()) >= steps:
            return
        time.sleep(0.005)
    pytest.fail(f"the run ended or hung before step {steps}: {process.stderr and process.stderr.read()}")


def test_it_learns_to_say_what_the_picture_shows(pretrained):
    figures = json.loads((pretrained / "figures.json").read_text())
    tasks = figures["test"]["tasks"]
    for name in ("colour", "type"):
        assert tasks[name]["accuracy"] > 0.9 > 0.5 > tasks[name]["majority"], (name, tasks[name])
        assert tasks[name]["low"] <= tasks[name]["accuracy"] <= tasks[name]["high"]
        assert tasks[name]["perplexity"] < 1.3
    assert 1 < tasks["title"]["perplexity"] < 10 and "accuracy" not in tasks["title"]
    evaluations = [e for e in map(json.loads, (pretrained / "metrics.jsonl").read_text().splitlines()) if "best" in e]
    assert evaluations[0]["perplexity"] > 1.5 * evaluations[-1]["perplexity"]
    assert figures["problems"] == {} and list((pretrained / "tb").iterdir())


def test_the_encoder_is_saved_and_its_vectors_tell_products_apart(pretrained):
    info = encoder_info(pretrained / "encoder")
    assert info.stage == "pretrain" and info.facts["test"]["items"] > 20
    assert info.facts["config"]["held_out"] == {"key": "title", "valid": 0.1, "test": 0.2, "salt": ""}
    encoder = load_encoder(pretrained / "encoder")
    shown = [(c, k, s) for c in ("Red", "Blue", "Green") for k in ("Shirts", "Watches", "Shoes") for s in (900, 901)]
    with torch.no_grad():
        found = encoder(encoder.prepare([Content(image=drawing(*each)) for each in shown]))
    found = torch.nn.functional.normalize(found - found.mean(0))
    nearest = (found @ found.T - 9 * torch.eye(len(found))).argmax(1).tolist()
    assert np.mean([shown[a][:2] == shown[b][:2] for a, b in enumerate(nearest)]) > 0.8


def test_no_title_is_on_both_sides_and_the_tokenizer_saw_none_of_the_test(products, tmp_path):
    config = parse_config(pretrain_recipe(), Pretrain, "tiny")
    with process_group() as ranks:
        trainer = Pretrainer(config, Dataset(products), RunFolder(tmp_path), ranks, False, None)
    titles = Dataset(products).items().collect()["title"]
    sides = [set(titles[trainer.parts[part].tolist()]) for part in (TRAIN, TEST)]
    assert not sides[0] & sides[1] and min(map(len, sides)) > 10


def test_kill_9_then_resume_is_bit_identical(products, tmp_path):
    config = recipe_file(tmp_path, **SHORT)
    assert moon.main(command(config, products, tmp_path / "reference")) == 0
    out = tmp_path / "run"
    process = started(command(config, products, out, "--resume"))
    wait_for(out, 6, process)
    process.kill()
    process.wait()
    assert moon.main(command(config, products, out, "--resume")) == 0
    assert losses(out) == losses(tmp_path / "reference") and len(losses(out)) == 22
    a, b = (load_encoder(folder / "encoder").state_dict() for folder in (out, tmp_path / "reference"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    figures = [json.loads((folder / "figures.json").read_text())["test"] for folder in (out, tmp_path / "reference")]
    assert figures[0] == figures[1]


def test_sigterm_saves_where_it_stands(products, tmp_path, monkeypatch, capsys):
    config = recipe_file(tmp_path, **SHORT)
    step = Pretrainer._step

    def interrupted(self: Pretrainer, batch):
        if self.progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(Pretrainer, "_step", interrupted)
    assert moon.main(command(config, products, tmp_path / "run")) == 143
    assert "stopped by SIGTERM after step 6; continue with --resume" in capsys.readouterr().err
    state = json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())
    assert state["progress"]["step"] == 6


def test_two_ranks_learn_what_one_learns_from_the_union_batch(products, tmp_path):
    plain = {"epochs": 1, "optimizer": {"lr": 1e-3, "decay": "none"}}
    one = recipe_file(tmp_path, **plain)
    assert moon.main(command(one, products, tmp_path / "one")) == 0
    two = started(command(one, products, tmp_path / "two", "--nproc", "2", "--set", "train.batch_size=8"))
    assert two.wait(timeout=240) == 0, two.stderr and two.stderr.read()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-3)
    tests = [json.loads((tmp_path / name / "figures.json").read_text())["test"] for name in ("one", "two")]
    assert tests[1]["perplexity"] == pytest.approx(tests[0]["perplexity"], rel=5e-3)
    assert tests[1]["tokens"] == tests[0]["tokens"]


def test_faulty_items_are_told_by_item_and_the_rest_goes_on(tmp_path, capsys):
    data = prepare_products(tmp_path, items=64, faulty=True)
    config = recipe_file(tmp_path, epochs=1, batch_size=8)
    assert moon.main(command(config, data, tmp_path / "run", "--json", str(tmp_path / "figures.json"))) == 0
    told = {(f["row"], f["field"]): f for f in map(json.loads, (tmp_path / "run" / "problems.jsonl").open())}
    assert told[EMPTY_TITLE, "title"]["reason"] == "empty" and told[EMPTY_TITLE, "title"]["item_id"] == "1005"
    assert "is empty (0 bytes)" in told[BROKEN, "image"]["reason"]
    assert "is corrupt" in told[CUT_OFF, "image"]["reason"]
    assert told[LONG_TITLE, "text"]["reason"] == "longer than the 24 tokens that are read; cut off"
    assert json.loads((tmp_path / "figures.json").read_text())["problems"] == {
        "image": 2,
        "text": 1,
        "title": 1,
    }
    assert "items with a problem (problems.jsonl): image 2, text 1, title 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("train.batch_size=1000", "are fewer than one batch of 1000; lower train.batch_size"),
        ("held_out.test=0", "held_out: valid and test must be above 0"),
        ("tasks.title.answer='{brand}'", "task title: the catalogue has no column 'brand'"),
        ("encoder.scratch=null", "give exactly one of path, hub, package, scratch"),
        ("encoder.path=/nowhere", "give exactly one of path, hub, package, scratch"),
        ("train.epoch=3", "unknown field 'train.epoch'; did you mean 'epochs'?"),
        ("catalogue.image=picture", "no item with a picture and an answer to train on"),
    ],
)
def test_mistakes_are_one_line_and_status_2(change, says, products, tmp_path, capsys):
    config = recipe_file(tmp_path, epochs=1)
    assert moon.main(command(config, products, tmp_path / "run", "--set", change)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("moon encoder pretrain: ") and says in error[0]


def test_a_saved_encoder_answers_questions(pretrained):
    encoder = load_encoder(pretrained / "encoder")
    assert isinstance(encoder, Mllm)
    shown = [Content(image=drawing(colour, "Shirts", 950)) for colour in ("Red", "Blue", "Green", "Yellow")]
    said = encoder.answers(encoder.prepare_questions(shown, [[("Colour?", None)]] * 4), longest=8)
    assert sum(a == b for a, b in zip(said, ("Red", "Blue", "Green", "Yellow"), strict=True)) >= 3


def test_the_recipe_of_fashion_products_pretrains(shared, tmp_path):
    """The shipped recipe on two hundred real products, with one small batch."""
    raw = tmp_path / "raw"
    raw.mkdir()
    pl.read_parquet(shared / "datasets/fashion_products/items.parquet").head(200).write_parquet(raw / "items.parquet")
    (raw / "images.tar").symlink_to((shared / "datasets/fashion_products/images.tar").resolve())
    prepare(FashionProducts(raw), tmp_path / "dataset")
    recipe = Path(__file__).parents[2] / "experiments" / "configs" / "fashion_mllm_pretrain.yaml"
    assert load_config(recipe, Pretrain).name == recipe.stem
    less = ["train.epochs=1", "train.batch_size=8", "judged.valid_items=8", "judged.test_items=8"]
    words = [word for change in less for word in ("--set", change)]
    assert moon.main(command(recipe, tmp_path / "dataset", tmp_path / "run", *words)) == 0
    tasks = json.loads((tmp_path / "run" / "figures.json").read_text())["test"]["tasks"]
    assert len(tasks) == 9 and all(task["perplexity"] < 2048 for task in tasks.values())


def test_the_command_shows_its_fields(capsys):
    with pytest.raises(SystemExit) as ended:
        moon.main(["encoder", "pretrain", "--fields"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "kv_heads" in shown and "questions" in shown and "prompts" in shown
