"""A run folder is one run's; a checkpoint brings back every number; a log forgets what comes after its checkpoint."""

import json

import pytest
import torch
from torch import nn

from data.config import Config
from data.errors import InputError
from features.ranks import Ranks
from moon_encoder.run import Progress, RunFolder
from moon_encoder.run_checkpoint import Checkpoints
from moon_encoder.train_log import TrainLog

ALONE = Ranks(0, 1, torch.device("cpu"))


class Recipe(Config):
    lr: float = 0.1
    name: str = "a"


def model():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    layers[0].requires_grad_(False)
    return layers


def trained(steps, layers, optimizer):
    for _ in range(steps):
        layers(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_folder_is_one_runs(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert not run.open(Recipe(lr=0.3), {"dataset": "abc"}, ALONE, resume=False)
    assert not run.open(Recipe(), {"dataset": "abc"}, ALONE, resume=False)  # the first one took no step
    run.log.touch()
    assert run.open(Recipe(), {"dataset": "abc"}, ALONE, resume=True)
    for recipe, facts, resume, message in (
        (Recipe(), {"dataset": "abc"}, False, "holds a run already; continue it with --resume"),
        (Recipe(lr=0.2), {"dataset": "abc"}, True, "own config; lr was 0.1 and is 0.2"),
        (Recipe(), {"dataset": "xyz"}, True, "own start; dataset was 'abc' and is 'xyz'"),
    ):
        with pytest.raises(InputError, match=message):
            run.open(recipe, facts, ALONE, resume)


def test_a_checkpoint_brings_back_weights_optimizer_own_state_and_random_numbers(tmp_path):
    layers, queue = model(), nn.BatchNorm1d(3)
    optimizer = torch.optim.AdamW(layers[1].parameters(), lr=0.1)
    trained(3, layers, optimizer)
    queue(torch.randn(6, 3))
    kept = Checkpoints(tmp_path / "checkpoints", ALONE)
    kept.save({"encoder": layers}, {"queue": queue}, optimizer, Progress(step=3, batch=2, best=0.5), best=True)
    expected_queue = {k: v.clone() for k, v in queue.state_dict().items()}
    trained(4, layers, optimizer)
    expected = layers[1].weight.clone()

    other, other_queue = model(), nn.BatchNorm1d(3)
    fresh = torch.optim.AdamW(other[1].parameters(), lr=0.1)
    torch.randn(17)
    progress = kept.load("last", {"encoder": other}, {"queue": other_queue}, fresh)
    assert progress == Progress(step=3, batch=2, best=0.5)
    assert all(torch.equal(other_queue.state_dict()[k], v) for k, v in expected_queue.items())
    trained(4, other, fresh)
    assert torch.equal(other[1].weight, expected)
    saved = torch.load(tmp_path / "checkpoints" / "last" / "shared.pt", weights_only=True)["modules"]["encoder"]
    assert set(saved) == {"1.weight", "1.bias"}  # what is frozen is not kept


def test_only_what_is_pointed_at_stays_and_damage_is_one_line(tmp_path):
    layers = model()
    optimizer = torch.optim.AdamW(layers[1].parameters())
    kept = Checkpoints(tmp_path, ALONE)
    for step, best in ((1, True), (2, False), (3, False)):
        kept.save({"encoder": layers}, {}, optimizer, Progress(step=step), best)
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000001", "step-00000003", "last", "best"}
    with pytest.raises(InputError, match=r"or of another model: trained weights differ, such as 0\.bias"):
        kept.load("best", {"encoder": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))})
    file = tmp_path / "last" / "shared.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="no such checkpoint, or it is damaged"):
        kept.load("last", {"encoder": layers})
    more = Checkpoints(tmp_path, Ranks(0, 2, torch.device("cpu")))
    with pytest.raises(InputError, match=r"had 1 rank\(s\); go on with --nproc 1"):
        more.load("best", {"encoder": layers}, {}, optimizer)


def test_a_resumed_log_has_every_line_once(tmp_path):
    run, progress = RunFolder(tmp_path), Progress()
    for start, end in ((0, 7), (4, 9)):
        log = TrainLog(run, ALONE, "pairs", every=2, total_steps=9)
        progress = Progress(step=start)
        log.open(progress)
        for _ in range(start, end):
            progress.step += 1
            log.step(progress, float(progress.step), 10, {"lr": 0.1})
        log.evaluation(progress, {"hr@1": 0.5}, True, 0.1)
        log.close()
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert [(line["step"], line.get("loss")) for line in lines] == [(2, 1.5), (4, 3.5), (6, 5.5), (8, 7.5), (9, None)]
    assert lines[-1]["hr@1"] == 0.5 and lines[0]["pairs_per_second"] > 0
