"""`moon train --encoder`: a dual tower trained through clicks, saved, embedded again; its table in the package."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
import yaml

import moon
from data.config import load_config
from data.dataset import Dataset
from data.marketplace.config import Market
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular
from experiments.catalogue_encoder import CatalogueEncoder
from features.encoder import FeatureEncoder
from features.loader import Loader
from features.ranks import process_group
from features.samples import SampleEncoder
from features.store import Store
from features.vector_source import open_sources
from moon_encoder.checkpoint import build_encoder, encoder_info, load_encoder, save_encoder
from moon_encoder.config import DualTowerConfig
from moon_encoder.dual_tower import DualTower
from ranker.build import build_ranker, load_ranker
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.exporting.export import Choice, export
from ranker.run_folder import RunFolder
from tests.moon_encoder.conftest import write_text, write_vision
from tests.ranker.test_item_vectors import table

RECIPE = {
    "name": "clicks",
    "features": {
        "default_table": {"dim": 8},
        "features": [
            {"kind": "id", "name": "user", "column": "user"},
            {"kind": "id", "name": "item", "column": "item"},
        ],
        "sequences": [{"name": "seen", "length": 10, "fields": ["item"]}],
        "vectors": [{"name": "image", "mode": "end_to_end", "lr": 0.003}],
    },
    "model": {
        "sequences": {"seen": {"kind": "mean"}},
        "content": [{"kind": "cube", "vectors": "image", "sequences": ["seen"]}],
        "tower": [16],
    },
    "train": {"batch_size": 512, "epochs": 1, "threads": 1, "log_every": 1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with data, the encoder it started from, its store, and the finished run."""
    root = tmp_path_factory.mktemp("end_to_end")
    simulate(Market(days=4, items=250, users=60, sessions_per_day=80, image_size=24), root / "raw")
    prepare(Tabular(root / "raw", root / "raw" / "columns.yaml"), root / "data")
    vision, text = write_vision(root / "vision"), write_text(root / "text")
    config = DualTowerConfig.model_validate(
        {
            "vision": {"path": str(vision), "trainable_from": 2},
            "text": {"path": str(text), "max_tokens": 8},
            "matryoshka": [8],
            "hidden": 8,
        }
    )
    save_encoder(build_encoder(config), root / "encoder", "tiny", "initial")
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    embed = ["encoder", "embed", str(root / "encoder"), "--data", str(root / "data"), "--store", str(root / "store")]
    assert moon.main(embed) == 0
    assert moon.main([*train(root), "--encoder", str(root / "encoder"), "--out", str(root / "run")]) == 0
    return root


def train(root: Path) -> list[str]:
    words = ["train", str(root / "recipe.yaml"), "--data", str(root / "data")]
    return [*words, "--store", str(root / "store")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_encoder(folder).named_parameters())


def test_the_run_holds_the_trained_encoder_whose_frozen_parts_did_not_move(trained):
    before, after = weights(trained / "encoder"), weights(trained / "run" / "encoders" / "image")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    free = {name for name, p in load_encoder(trained / "encoder").named_parameters() if p.requires_grad}
    assert moved and moved <= free and any(name.startswith("vision.tail") for name in moved)
    info = encoder_info(trained / "run" / "encoders" / "image")
    assert info.stage == "end-to-end"
    assert info.facts["started_from"] == encoder_info(trained / "encoder").fingerprint
    name = json.loads((trained / "run" / "meta.json").read_text())["trained_encoders"]["image"]
    assert name == f"tiny-{info.fingerprint[:12]}"


def test_a_store_embedded_from_it_holds_the_vectors_of_the_run_and_so_does_the_package(trained, tmp_path):
    run, dataset = RunFolder(trained / "run"), Dataset(trained / "data")
    command = ["encoder", "embed", str(run.root / "encoders" / "image"), "--data", str(trained / "data")]
    assert moon.main([*command, "--store", str(tmp_path / "store")]) == 0
    store = Store(tmp_path / "store").current
    old = Store(trained / "store").current
    with process_group() as ranks:
        model, _ = load_ranker(run, dataset, ranks)
        rows = table(model)[1:].numpy()
        export(run, dataset, tmp_path / "package", ranks, Choice(programs=("program",), rows=200))
    every = np.arange(len(rows))
    assert np.abs(store.vectors(every)[0] - rows).max() < 2e-3 < np.abs(old.vectors(every)[0] - rows).max()
    folder = (tmp_path / "package" / "current").resolve()
    packed = Store(folder / "stores" / "image").current
    assert packed.meta["encoder"] == store.meta["encoder"] != old.meta["encoder"]
    assert np.abs(packed.vectors(every)[0] - rows).max() < 1e-3
    assert np.array_equal(np.load(folder / "tables" / "image.npy")[1:], rows)


def test_resuming_the_finished_run_gives_its_own_figures(trained, capsys):
    before = pl.read_parquet(trained / "run" / "predictions.parquet")
    assert moon.main([*train(trained), "--out", str(trained / "run"), "--resume"]) == 2
    assert "give --encoder image=DIR" in capsys.readouterr().err
    again = [*train(trained), "--encoder", str(trained / "encoder"), "--out", str(trained / "run"), "--resume"]
    assert moon.main(again) == 0
    assert pl.read_parquet(trained / "run" / "predictions.parquet").equals(before)


def test_an_encoder_without_such_a_prefix_is_one_line(trained, tmp_path, capsys):
    config = load_encoder(trained / "encoder").config.model_copy(update={"dim": 12, "matryoshka": (4,)})
    save_encoder(build_encoder(config), tmp_path / "other", "other", "initial")
    command = [*train(trained), "--encoder", str(tmp_path / "other"), "--out", str(tmp_path / "run")]
    assert moon.main(command) == 2
    assert "has prefixes of 4, 12; features.vectors 'image' has 16 dimensions" in capsys.readouterr().err


def test_what_the_frozen_part_makes_of_an_item_is_computed_once_for_all_runs(trained, tmp_path, monkeypatch):
    words = [*train(trained), "--encoder", str(trained / "encoder"), "--cache", str(tmp_path / "cache")]
    assert moon.main([*words, "--out", str(tmp_path / "first")]) == 0
    for part in ("frozen_images", "frozen_texts"):
        one = getattr(DualTower, part)  # whether there is a frozen part is asked with one text

        def at_most_asked(self, contents, one=one):
            assert len(contents) == 1 and isinstance(contents[0], str), "computed again"
            return one(self, contents)

        monkeypatch.setattr(DualTower, part, at_most_asked)
    assert moon.main([*words, "--out", str(tmp_path / "second")]) == 0
    scores = [pl.read_parquet(folder / "predictions.parquet")["score"] for folder in (
        trained / "run", tmp_path / "first", tmp_path / "second"
    )]  # fmt: skip
    assert scores[1].equals(scores[2]) and (scores[0] - scores[1]).abs().max() < 0.02  # the cache is float16
    words = [*train(trained), "--set", "features.vectors.image.shuffle=1", "--encoder", str(trained / "encoder")]
    words += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "twin")]
    assert moon.main(words) == 0  # nor is anything computed for the twin


def test_the_twin_s_encoder_is_shown_another_item_s_content_wherever_the_item_stands(trained):
    """As target and as behaviour, in every step, the same other item; what has no vector keeps none."""
    recipe = load_config(trained / "recipe.yaml", Recipe, ["features.vectors.image.shuffle=7"])
    dataset = Dataset(trained / "data")
    sources = open_sources(recipe.features, dataset, {"image": trained / "store"})
    source = sources["image"]
    module = CatalogueEncoder.open(trained / "encoder", source, dataset).eval()
    with process_group() as ranks:
        encoders = ItemEncoders({"image": lambda source: module}, sources, ranks)
        samples = SampleEncoder(FeatureEncoder.fit(recipe.features, dataset, sources), dataset, sources)
        model, _ = build_ranker(recipe, samples, ranks)
        encoders.refresh(model)
        encoders.modules.eval()
        batch = next(Loader(samples, "train", 64).epoch())
        with torch.no_grad():
            as_target = encoders.encode(batch)["image"]
            items = batch.items[batch.target]
            shown = torch.from_numpy(source.item_of_row[source.rows(items.numpy())])
            content = F.normalize(module(shown)[:, : source.dim], dim=1)
        as_behaviour = table(model)[batch.vectors["image"][batch.target]]
    assert (shown != items).float().mean() > 0.9 and len(set(shown.tolist())) == len(set(items.tolist()))
    torch.testing.assert_close(as_target, content, atol=1e-5, rtol=0)
    torch.testing.assert_close(as_behaviour, content, atol=1e-5, rtol=0)
