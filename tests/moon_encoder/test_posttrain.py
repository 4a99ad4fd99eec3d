"""The loop end to end on a small market: it learns, holds out, resumes bit for bit, stops when asked, and two ranks
take the step of one."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import moon
from data.config import parse_config
from data.dataset import Dataset
from features.ranks import Ranks
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder
from moon_encoder.initial import NewEncoder
from moon_encoder.posttrain import Posttrainer
from moon_encoder.posttrain_config import Posttrain
from moon_encoder.run import RunFolder
from tests.moon_encoder.conftest import dual_config, mllm_config
from tests.moon_encoder.on_ranks import on_two_ranks
from tests.moon_encoder.products import prepare_products

A = {
    "name": "broad",
    "seed": 1,
    "catalogue": {"product": "spu"},
    "held_out": {"key": "spu", "valid": 0.1, "test": 0.1},
    "valid": [{"query": "image", "item": "image", "source": "search_image"}],
    "train": {"batch_size": 16, "epochs": 2, "steps_per_epoch": 12, "log_every": 1, "optimizer": {"lr": 0.001}},
}
B = {
    **A,
    "name": "refined",
    "stage": "b",
    "actions": ["order"],
    "cleaning": {"entities": 1},
    "negatives": {"hard": 1, "queue": 3},
    "triplet": {"weight": 0.5, "items": "shown"},
    "views": {"query": True, "item": True, "count": 2},
}


def changed(tree: dict, **train: object) -> dict:
    return {**tree, "train": {**tree["train"], **train}}


@pytest.fixture(scope="module")
def files(towers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """init.yaml, a.yaml, b.yaml."""
    root = tmp_path_factory.mktemp("posttrain")
    init = dual_config(towers, vision={"trainable_from": 2}).model_dump(mode="json")
    for name, tree in (("init", {"encoder": init}), ("a", A), ("b", B)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return root


def words(config: Path, market: Path, init: Path, out: Path, *more: object) -> list[str]:
    head = ["encoder", "posttrain", str(config), "--data", str(market), "--init", str(init), "--out", str(out)]
    return head + [str(word) for word in more]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def stages(files, market) -> tuple[Path, Path]:
    """Finished runs of stage A and of stage B from it."""
    cache = ("--cache", files / "cache")
    assert moon.main(words(files / "a.yaml", market, files / "init.yaml", files / "A", *cache)) == 0
    assert moon.main(words(files / "b.yaml", market, files / "A" / "encoder", files / "B", *cache)) == 0
    return files / "A", files / "B"


def test_both_stages_end_in_an_encoder_that_says_where_it_comes_from(stages):
    for run, stage in zip(stages, ("posttrain-a", "posttrain-b"), strict=True):
        info = encoder_info(run / "encoder")
        assert info.stage == stage and info.facts["valid"]["image->image search_image"]["gallery"] > 100
        assert load_encoder(run / "encoder").dim == info.dim
        figures = json.loads((run / "figures.json").read_text())
        assert [m["kind"] for m in figures["mix"]][:2] == ["text->rich", "text->image"]
        assert sum(m["share"] for m in figures["mix"]) == pytest.approx(1)
        assert list((run / "tb").iterdir()) and figures["pairs_per_second"] > 0
    facts = json.loads((stages[1] / "meta.json").read_text())["facts"]
    assert facts["init"] == encoder_info(stages[0] / "encoder").fingerprint


def test_inspect_says_what_a_run_and_an_encoder_are(stages, tmp_path, capsys):
    assert moon.main(["inspect", str(stages[1]), "--json", str(tmp_path / "run.json")]) == 0
    out = capsys.readouterr().out
    assert "encoder run refined (posttrain-b), seed 1, on cpu, 1 rank(s)" in out and "holds out by spu" in out
    found, figures = (json.loads(f.read_text()) for f in (tmp_path / "run.json", stages[1] / "figures.json"))
    assert [e["step"] for e in found["evaluations"]] == [0, 12, 24] and found["last_step"]["step"] == 24
    assert found["figures"] == figures and any("better" in w for w in found["warnings"]) == (figures["best_step"] == 0)
    assert moon.main(["inspect", str(stages[0] / "encoder")]) == 0
    fingerprint = encoder_info(stages[0] / "encoder").fingerprint
    assert f"encoder broad (posttrain-a): dual_tower, 16 dims, prefixes 4, 8; {fingerprint[:12]}" in (
        capsys.readouterr().out
    )


def test_the_loss_falls(stages):
    values = [loss for _, loss in losses(stages[0])]
    assert len(values) == 24 and np.mean(values[-8:]) < np.mean(values[:8])


def test_cleaning_is_counted_step_by_step(stages, capsys):
    counts = json.loads((stages[1] / "figures.json").read_text())["cleaning"]
    text = [c for c in counts if c["source"] == "search_text"]
    assert [c["step"] for c in text] == [
        "least similar query", "merge SKUs of a product", "categories to the exposure mix", "at least 1 entities",
    ]  # fmt: skip
    assert all(a["after"] == b["before"] for a, b in pairwise(text))
    assert text[0]["before"] > text[0]["after"] == text[0]["more"]["items"]
    assert json.loads((stages[0] / "figures.json").read_text())["cleaning"] == []


def trainer(files: Path, market: Path, tree: dict, rank: int = 0, world: int = 1) -> Posttrainer:
    config = parse_config(tree, Posttrain, "test")
    torch.manual_seed(5)
    encoder = build_encoder(parse_config(yaml.safe_load((files / "init.yaml").read_text()), NewEncoder, "test").encoder)
    for name, parameter in encoder.named_parameters():
        if "residual" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ranks = Ranks(rank, world, torch.device("cpu"))
    return Posttrainer(config, Dataset(market), encoder, RunFolder(files / "unused"), ranks, None)


def test_no_held_out_item_is_ever_shown_in_training(files, market):
    found = trainer(files, market, {**B, "cleaning": None, "actions": None})
    allowed = np.flatnonzero(found.batches._showable[0])
    parts = found.config.held_out.parts(found.contents.dataset.items().collect())
    assert (parts[allowed] == 0).all() and (parts > 0).sum() > 10
    shown = []
    items = found.shown.items
    found.shown.items = lambda rows, *rest: (shown.append(np.asarray(rows)), items(rows, *rest))[1]  # type: ignore[method-assign]
    for index in range(len(found.batches)):
        batch = found.batches.at(0, index)
        assert (parts[batch.labels.item.numpy()] == 0).all()
    assert len(shown) > len(found.batches) and (parts[np.concatenate(shown)] == 0).all()


def stepped(files, market, rank, world, spatial=True):
    """Weights after three steps of plain gradient descent, with hard negatives, a queue and triplets."""
    tree = changed({**B, "cleaning": None, "actions": None}, batch_size=16 // world)
    tree["negatives"] = {"hard": 1, "queue": 2, "spatial": spatial}
    found = trainer(files, market, tree, rank, world)

    @torch.no_grad()
    def descend(step):
        """Adam's first steps are +-lr whatever a gradient's size, so that rounding would decide their direction."""
        for p in found.optimizer._parameters:
            p -= 0.05 * p.grad
            p.grad = None
        return 0.05, 1.0

    found.optimizer.step = descend  # type: ignore[method-assign]
    for index in range(3):
        found._step(found.batches.at(0, index))
        found.progress.step += 1
    return {name: p.detach() for name, p in found.encoder.named_parameters() if p.requires_grad}


def _rank(rank, folder, files, market):
    out = {spatial: stepped(files, market, rank, 2, spatial) for spatial in (True, False)}
    torch.save(out, folder / f"rank{rank}.pt")


def test_two_ranks_take_the_steps_of_one_with_the_union_batch(files, market, tmp_path):
    on_two_ranks(_rank, tmp_path, files, market)
    one, two = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    expected = stepped(files, market, 0, 1)
    apart = 0.0
    for name, value in expected.items():
        torch.testing.assert_close(one[True][name], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(one[True][name], two[True][name], rtol=0, atol=0)
        apart = max(apart, float((one[False][name] - value).abs().max()))
    assert apart > 1e-5  # without the other rank's items the steps are others


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def started(arguments: list[str], out: Path, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "moon", *arguments]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").is_file() and len((out / "metrics.jsonl").read_text().splitlines()) >= steps:
            return process
        time.sleep(0.01)
    pytest.fail(f"the run ended or hung before step {steps}: {process.stderr and process.stderr.read()}")


def test_kill_9_and_sigterm_then_resume_are_bit_identical_queue_included(stages, files, market, tmp_path):
    out = tmp_path / "run"
    again = ("--cache", files / "cache", "--resume", "--set", "train.checkpoint_every=3")
    reference = files / "reference"
    init = stages[0] / "encoder"
    assert moon.main(words(files / "b.yaml", market, init, reference, *again)) == 0
    process = started(words(files / "b.yaml", market, init, out, *again), out, 8)
    process.kill()
    process.wait()
    process = started(words(files / "b.yaml", market, init, out, *again), out, 16)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait() == 143 and "stopped by SIGTERM after step" in error
    assert not (out / "encoder").exists()
    assert moon.main(words(files / "b.yaml", market, init, out, *again)) == 0
    assert losses(out) == losses(reference) and len(losses(out)) == 24
    infos = [encoder_info(run / "encoder") for run in (out, reference)]
    assert infos[0].fingerprint == infos[1].fingerprint


def test_two_processes_run_the_command(stages, files, market, tmp_path):
    arguments = words(files / "b.yaml", market, stages[0] / "encoder", tmp_path / "run", "--nproc", 2)
    done = subprocess.run(
        [sys.executable, "-m", "moon", *arguments, "--set", "train.epochs=1", "--json", str(tmp_path / "out.json")],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["steps"] == 12
    assert (tmp_path / "run" / "checkpoints" / "last" / "rank1.pt").is_file()


SAVING = {"lora": {"rank": 2}, "bf16": True, "gradient_checkpointing": True}


@pytest.mark.parametrize(("family", "more"), [("qwen3_vl", {}), ("qwen2_5_vl", SAVING)])
def test_the_multimodal_llm_goes_through_both_stages(family, more, files, market, tmp_path):
    model = mllm_config(family, **more)
    (tmp_path / "init.yaml").write_text(yaml.safe_dump({"encoder": model.model_dump(mode="json")}))
    short = ("--set", "train.epochs=1", "--set", "train.steps_per_epoch=9", "--set", "train.batch_size=4")
    short += ("--set", "valid.0.queries=8", "--set", "valid.0.gallery=20")
    short += ("--set", "train.grad_cache=4")
    a, b = tmp_path / "A", tmp_path / "B"
    assert moon.main(words(files / "a.yaml", market, tmp_path / "init.yaml", a, *short)) == 0
    assert moon.main(words(files / "b.yaml", market, a / "encoder", b, *short)) == 0
    infos = [encoder_info(run / "encoder") for run in (a, b)]
    assert [i.stage for i in infos] == ["posttrain-a", "posttrain-b"] and infos[0].config.kind == "mllm"
    assert len(losses(b)) == 9 and all(np.isfinite(loss) for _, loss in losses(b))


@pytest.mark.parametrize("backbone", ["dual_tower", "mllm"])
def test_pictures_that_cannot_be_read_are_told_and_left_out(backbone, towers, tmp_path, capsys):
    data = prepare_products(tmp_path, items=60, faulty=True)
    model = mllm_config() if backbone == "mllm" else dual_config(towers)
    (tmp_path / "init.yaml").write_text(yaml.safe_dump({"encoder": model.model_dump(mode="json")}))
    mix = [{"query": "text", "item": "image", "weight": 1, "sources": ["augmented"]}]
    valid = [{"query": "text", "item": "image", "source": "augmented"}]
    recipe = {"name": "odd", "held_out": {"valid": 0.2}, "mix": mix, "valid": valid}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe | {"train": {"batch_size": 16}}))
    arguments = words(tmp_path / "a.yaml", data, tmp_path / "init.yaml", tmp_path / "run")
    assert moon.main([*arguments, "--cache", str(tmp_path / "cache")] if backbone == "dual_tower" else arguments) == 0
    told = [json.loads(line) for line in (tmp_path / "run" / "problems.jsonl").read_text().splitlines()]
    assert [(f["row"], f["item_id"], f["field"]) for f in told] == [(3, "1003", "image"), (4, "1004", "image")]
    assert "is empty (0 bytes)" in told[0]["reason"] and "is corrupt" in told[1]["reason"]
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert figures["problems"] == {"image": 2} and figures["valid"]["text->image augmented"]["gallery"] == 58
    assert figures["mix"][0]["pairs"]["augmented"] <= figures["items"]["train"] - 1  # the untitled one as well
    assert "image: 2 cannot be read and are left out (problems.jsonl)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage=c", "stage: Input should be 'a' or 'b' (got 'c')"),
        ("cleaning={}", "cleaning belongs to stage b"),
        ("objective.matryoshka={64: 1}", "objective.matryoshka: no prefix of 64 in vectors of 16"),
        ("valid.0.source=given", "valid search 'image->image given': the dataset has no such pairs in valid"),
        ("catalogue.product=sku", "the catalogue has no column 'sku'"),
        ("mix=[{query: image, item: image, weight: 1, sources: [given]}]", "no kind of pairs is left to train on"),
        ("train.optimizer.lr=1e30", "lower train.optimizer.lr"),
        ("negative.hard=1", "unknown field 'negative'; did you mean 'negatives'?"),
    ],
)
def test_mistakes_are_one_line(change, message, files, market, tmp_path, capsys):
    arguments = words(files / "a.yaml", market, files / "init.yaml", tmp_path / "run", "--set", change)
    assert moon.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("moon encoder posttrain: ")


def test_another_start_is_not_resumed(stages, files, market, capsys):
    assert moon.main(words(files / "b.yaml", market, files / "init.yaml", stages[1], "--resume")) == 2
    assert "--resume needs the run's own start; init was" in capsys.readouterr().err
