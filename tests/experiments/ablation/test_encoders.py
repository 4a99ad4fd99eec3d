"""A study with vectors end to end: the encoder in every cell, its frozen part run once, its mistakes."""

import json
from pathlib import Path

import pytest
import torch

import moon
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.ablation.cells import Recipes
from experiments.ablation.command import Ablation
from experiments.ablation.config import Study
from experiments.grid import ALL
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder, save_encoder
from moon_encoder.config import DualTowerConfig
from moon_encoder.dual_tower import DualTower
from tests.experiments.ablation.conftest import write_study
from tests.moon_encoder.conftest import write_text
from tests.moon_encoder.posters import prepare_posters

MATRIX = [{"modes": ["end_to_end"]}]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a dataset, an encoder of titles, its store and the study's files."""
    root = tmp_path_factory.mktemp("end_to_end")
    prepare_posters(root)
    text = {"path": str(write_text(root / "text")), "max_tokens": 8}
    config = DualTowerConfig.model_validate({"vision": None, "text": text, "dim": 8, "matryoshka": [4], "hidden": 8})
    save_encoder(build_encoder(config), root / "encoder", "tiny", "initial")
    embed = ["encoder", "embed", str(root / "encoder"), "--data", str(root / "data"), "--store", str(root / "store")]
    assert moon.main([*embed, "--content", "title"]) == 0
    write_study(root, matrix=MATRIX, tuning=None)
    return root


def words(room: Path, *more: str) -> list[str]:
    found = [
        "study",
        "ablation",
        str(room / "study.yaml"),
        "--data",
        str(room / "data"),
        "--store",
        f"image={room / 'store'}",
    ]
    return [*found, *more]


def test_every_cell_trains_an_encoder_of_its_own_and_the_frozen_part_runs_once(room, tmp_path, monkeypatch):
    study = load_config(room / "study.yaml", Study)
    made, frozen = [], DualTower.frozen_texts
    monkeypatch.setattr(DualTower, "frozen_texts", lambda self, texts: made.extend(texts) or frozen(self, texts))
    stores, encoders = {"image": room / "store"}, {"image": room / "encoder"}
    work = Ablation(study, Recipes(study, room), room / "data", stores, tmp_path, encoders, tmp_path / "frozen")
    report, outcomes = work.run(0, ALL)
    assert [o.error for o in outcomes] == [None] * 6
    items = Dataset(room / "data").meta["counts"]["items"]
    probes = made.count("a")  # each cell asks once whether there is a frozen text part
    assert probes == 4 and len(made) - probes == items
    start = load_encoder(room / "encoder")
    ends = []
    for name in ("concat-end_to_end-all", "concat-end_to_end-all-shuffled"):
        for seed in (0, 1):
            folder = tmp_path / "runs" / name / f"s{seed}" / "encoders" / "image"
            assert encoder_info(folder).facts["started_from"] == encoder_info(room / "encoder").fingerprint
            ends.append(load_encoder(folder).project_text.base.weight)
    assert all(not torch.equal(end, start.project_text.base.weight) for end in ends)
    assert not any(torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])
    group = {group["name"]: group for group in report["groups"]}["concat-end_to_end-all"]
    assert group["content_gain"]["against"] == "concat-end_to_end-all-shuffled" and group["mode"] == "end_to_end"
    parameters, own = group["cost"]["parameters"], sum(p.numel() for p in start.parameters() if p.requires_grad)
    assert parameters["dense"] > own and parameters["vectors"] == 8 * (items + 1)
    assert "tiny-" in report["facts"]["encoders trained end to end"]

    other = build_encoder(start.config, seed=1)
    save_encoder(other, tmp_path / "other", "other", "initial")
    with pytest.raises(InputError, match="a finished run of another encoder than the grid asks for"):
        Ablation(
            study, Recipes(study, room), room / "data", stores, tmp_path, {"image": tmp_path / "other"}, tmp_path
        ).run(0, ALL)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "features.vectors 'image' are end_to_end and need an encoder; give --encoder image=DIR"),
        (["--encoder", "DIR"], "--encoder DIR: give NAME=DIR"),
        (["--encoder", "image=nowhere"], "nowhere: no encoder (encoder.json is missing)"),
        (["--encoder", "image={room}/encoder", "--encoder", "text={room}/encoder"], "--encoder text: no vectors of"),
        (["--encoder", "image={room}/encoder", "--set", "matrix=[{{dims: [4]}}]"], "--encoder image: no vectors of"),
    ],
)
def test_mistakes_are_one_line(room, tmp_path, more, message, capsys):
    more = [word.format(room=room) for word in more]
    assert moon.main(words(room, "--out", str(tmp_path / "out"), *more)) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_cells_and_a_process_gets_encoder_and_cache(room, tmp_path, capsys):
    more = ["--encoder", f"image={room / 'encoder'}", "--out", str(tmp_path / "out"), "--set", "seeds=[0, 1]"]
    assert moon.main(words(room, *more, "--dry-run")) == 0
    assert "concat-end_to_end-all-shuffled  0 of 2 finished" in capsys.readouterr().out
    assert moon.main(words(room, *more, "--jobs", "2", "--cache", str(tmp_path / "cache"))) == 0
    assert len(list((tmp_path / "cache").glob("text-*/done.npy"))) == 1 and not (tmp_path / "out" / "frozen").exists()
    meta = json.loads((tmp_path / "out" / "runs" / "concat-end_to_end-all" / "s1" / "meta.json").read_text())
    assert meta["trained_encoders"]["image"].startswith("tiny-")
