"""Item vectors in a training run: what moves, what stays bit for bit, what a checkpoint holds, how runs find stores."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

import moon
from data.config import load_config
from data.dataset import Dataset
from features.ranks import process_group
from features.store import Store
from ranker.build import load_ranker
from ranker.config import Recipe
from ranker.run_folder import RunFolder
from ranker.train import train
from tests.conftest import write_store
from tests.ranker.conftest import TINY


@pytest.fixture
def store(small, tmp_path):
    return write_store(tmp_path / "store", small)


@pytest.fixture
def recipe(tmp_path):
    """The tiny recipe with the target's vector as input."""
    features = TINY["features"] | {"vectors": [{"name": "image"}]}
    model = TINY["model"] | {"content": [{"kind": "concat", "vectors": "image"}]}
    path = tmp_path / "vectors.yaml"
    path.write_text(yaml.safe_dump(TINY | {"features": features, "model": model}))
    return path


def run(recipe, small, store, out, *changes):
    """Train; the vector table before and after, and the trained model."""
    with process_group() as ranks:
        train(load_config(recipe, Recipe, list(changes)), Dataset(small), out, ranks, stores={"image": store})
        model, samples = load_ranker(RunFolder(out), Dataset(small), ranks)
        start = torch.from_numpy(samples.vectors["image"].block(0, samples.vectors["image"].table_rows))
        return start, table(model), model


def table(model):
    name = "vectors.collections.image.embeddings.image.weight"
    return model.state_dict()[name].local_shards()[0].tensor.clone()


def own(model, part):
    return {name: p for name, p in model.named_parameters() if part in name}


def touched(small, root):
    """Items that a train batch can touch: targets and their histories."""
    dataset = Dataset(small)
    train_rows = dataset.samples("train").collect()
    return set(train_rows["item"].to_list()) | set(np.asarray(dataset.behaviors().item).tolist())


def test_a_frozen_table_is_bit_identical_and_not_in_the_checkpoint(recipe, small, store, tmp_path):
    start, end, model = run(recipe, small, store, tmp_path / "run")
    assert torch.equal(start, end) and start[1:].any()
    state = model.fused_optimizer.state_dict()["state"]
    assert state["tables.collections.dim8.embeddings.item.weight"]
    assert not state.get("vectors.collections.image.embeddings.image.weight")
    saved = torch.distributed.checkpoint.FileSystemReader(tmp_path / "run" / "checkpoints" / "best").read_metadata()
    assert not any("vectors.collections" in key for key in saved.state_dict_metadata)
    facts = json.loads((tmp_path / "run" / "meta.json").read_text())["stores"]["image"]
    assert facts["version"] == 1 and facts["path"] == str(store) and len(facts["fingerprint"]) == 64


def test_a_projected_table_stays_and_its_mlp_learns_at_its_own_rate(recipe, small, store, tmp_path):
    mode = "features.vectors.image={name: image, mode: projected, projection: [6], lr: %s}"
    start, end, model = run(recipe, small, store, tmp_path / "run", mode % 0.01)
    assert torch.equal(start, end)
    weights = own(model, "projections.image")
    assert len(weights) == 4 and all(w.abs().max() > 1e-3 for w in weights.values())
    _, _, slow = run(recipe, small, store, tmp_path / "slow", mode % 1e-9)
    last = next(name for name in weights if name.endswith("layers.2.weight"))
    assert dict(slow.named_parameters())[last].abs().max() < 1e-6 < weights[last].abs().max()


def test_a_finetuned_table_moves_only_touched_rows(recipe, small, store, tmp_path):
    mode = "features.vectors.image={name: image, mode: finetuned, lr: 0.01}"
    start, end, model = run(recipe, small, store, tmp_path / "run", mode)
    moved = (start != end).any(1)
    items = touched(small, store)
    may = torch.tensor([row > 0 and row - 1 in items and (row - 1) % 5 != 0 for row in range(len(start))])
    assert moved.any() and not (moved & ~may).any() and not may.all()
    targets = set(Dataset(small).samples("train").collect()["item"].to_list())
    assert moved.nonzero().squeeze(1).tolist() == sorted(t + 1 for t in targets if t % 5 != 0)
    assert own(model, "vectors") and any("vectors" in name for name in model.fused_optimizer.params)


def test_a_missing_vector_is_told_from_a_vector(recipe, small, store, tmp_path):
    with process_group() as ranks:
        recipe = load_config(recipe, Recipe)
        train(recipe, Dataset(small), tmp_path / "run", ranks, stores={"image": store})
        model, samples = load_ranker(RunFolder(tmp_path / "run"), Dataset(small), ranks)
        from features.loader import Loader

        batch = next(Loader(samples, "test", 64).epoch())
        content = model.module.vectors(model.module.lookup(batch), batch)["image"]
        assert torch.equal(content.present_U, batch.items % 5 != 0)
        assert not content.items_UM[~content.present_U].any() and content.items_UM[content.present_U].any(1).all()
        part = model.module.content[0](type("E", (), {"content": {"image": content}}))
        assert torch.equal(part[:, -1].bool(), batch.items[batch.target] % 5 != 0)


def test_eval_finds_the_recorded_store_or_is_given_its_copy(recipe, small, store, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", str(recipe), "--data", str(small), "--out", str(out), "--store", str(store)]
    assert moon.main([*command, "--json", str(tmp_path / "a.json")]) == 0
    write_store(store, small, seed=1)
    assert moon.main(["eval", str(out), "--json", str(tmp_path / "b.json")]) == 0
    figures = [json.loads((tmp_path / name).read_text())["auc"] for name in ("a.json", "b.json")]
    assert figures[0] == figures[1]
    assert moon.main([*command, "--resume"]) == 0
    shutil.copytree(store, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "v00000002")
    shutil.rmtree(store)
    capsys.readouterr()
    assert moon.main(["eval", str(out)]) == 2
    assert "version 1 of the store is gone" in capsys.readouterr().err
    assert moon.main(["eval", str(out), "--store", str(tmp_path / "copy"), "--json", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["auc"] == figures[0]
    own = (out / "metrics.json").read_bytes(), (out / "predictions.parquet").read_bytes()
    newer = Store(write_store(tmp_path / "copy", small, seed=1)).current
    assert moon.main(["eval", str(out), "--store", str(tmp_path / "copy"), "--json", str(tmp_path / "d.json")]) == 0
    name = f"test-image-{newer.meta['fingerprint'][:8]}"
    found = json.loads((out / f"metrics-{name}.json").read_text())
    assert found == json.loads((tmp_path / "d.json").read_text()) and found["auc"] != figures[0]
    assert own == ((out / "metrics.json").read_bytes(), (out / "predictions.parquet").read_bytes())
    assert (out / f"predictions-{name}.parquet").is_file()


def test_mistakes_are_one_line(recipe, small, store, tmp_path, capsys):
    base = ["train", str(recipe), "--data", str(small), "--out", str(tmp_path / "run")]

    def fails(*words):
        assert moon.main([*base, *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "'image' needs a representation store; give --store image=DIR" in fails()
    assert "no vectors 'text' in features.vectors (there: image)" in fails("--set", "model.content.0.vectors=text")
    assert "features.vectors 'image' are read by nothing in model" in fails("--set", "model.content=[]")
    other = "--set", "model.content.0={kind: simtier, vectors: image, sequence: %s, split_by: action}"
    assert "simtier reads sequence 'liked', features.sequences has: rated" in fails(other[0], other[1] % "liked")
    message = "simtier reads 'action' of the behaviours; add it to the numbers of sequence 'rated'"
    assert message in fails(other[0], other[1] % "rated")
    semantic = "model.content.0={kind: semantic_ids, vectors: image, sequence: rated}"
    assert "'image' have no codes; semantic_ids reads codes" in fails("--set", semantic)
    codes = "features.vectors.image.codes={levels: 2}"
    assert "'image' have codes that nothing in model reads" in fails("--set", codes)
    assert "codes of 256 centroids need as many vectors" in fails(
        *("--store", str(store)), *("--set", codes), *("--set", semantic)
    )
    assert "asks for 3 dimensions" in fails("--store", str(store), "--set", "features.vectors.image.dim=3")
    odd, wide = write_store(tmp_path / "odd", small, dim=6), write_store(tmp_path / "wide", small, dim=12)
    assert "vectors of 6 dimensions; a table needs a multiple of 4" in fails("--store", str(odd))
    assert moon.main([*base, "--store", str(store)]) == 0
    capsys.readouterr()
    assert moon.main(["eval", str(tmp_path / "run"), "--store", str(wide)]) == 2
    assert "had dim 8, this store has 12; give the run's own with --store image=DIR" in capsys.readouterr().err


MECHANISMS = {
    "quality": "{kind: quality, vectors: image, hidden: [6], width: 2}",
    "simtier": "{kind: simtier, vectors: image, sequence: rated, split_by: action}",
    "cube": "{kind: cube, vectors: image, sequences: [rated], weights: sigmoid, top: 3}",
    "residual": "{kind: residual, vectors: image, sequence: rated}",
    "semantic_ids": "{kind: semantic_ids, vectors: image, sequence: rated, hidden: [4]}",
    "make": "{kind: make, vectors: image, sequence: rated, numbers: [surprise], width: 4, epochs: 1, then: trained}",
}


@pytest.mark.parametrize("mode", ["frozen", "projected", "finetuned"])
def test_every_mechanism_trains_in_every_mode_and_is_loaded_again(mode, recipe, small, store, tmp_path):
    """All at once: the run's own scores of test rows come back from its checkpoint."""
    changes = [
        f"model.content=[{', '.join(MECHANISMS.values())}]",
        "features.sequences.rated.numbers=[surprise, action]",
        f"features.vectors.image.mode={mode}",
        "features.vectors.image.codes={levels: 2, size: 4}",
    ]
    start, end, model = run(recipe, small, store, tmp_path / "run", *changes)
    assert torch.equal(start, end) == (mode != "finetuned")
    before = (tmp_path / "run" / "predictions.parquet").read_bytes()
    assert moon.main(["eval", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "predictions.parquet").read_bytes() == before
    assert all(torch.isfinite(p).all() for p in model.parameters())
