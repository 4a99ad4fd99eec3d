"""Training: learns, repeats with its seed, leaves OOV alone, stops on wild losses and early; golden losses."""

import json
import re
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import moon
from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from features.ranks import process_group
from ranker.build import build_ranker, load_ranker
from ranker.config import Recipe
from ranker.optimizer import dense_parameters
from ranker.run_folder import RunFolder
from ranker.train import train
from tests.conftest import write_ratings

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
GOLDEN_RECIPES = {
    "din": [],
    "mha-rowwise": ["model.sequences.rated={kind: mha, heads: 2, head_dim: 4}", "train.tables.kind=rowwise_adagrad"],
    "mean-dcnv2-clipped": [
        "model.sequences.rated={kind: mean}",
        "model.interaction={kind: dcnv2, layers: 2}",
        "train.dense.clip_norm=0.5",
        "train.schedule={warmup_steps: 5, decay: cosine}",
    ],
}


def run(config: Path, dataset: Path, out: Path, *changes: str) -> dict:
    recipe = load_config(config, Recipe, list(changes))
    with process_group() as ranks:
        return train(recipe, Dataset(dataset), out, ranks, resume=False)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_and_writes_the_run(tiny, small, tmp_path):
    found = run(tiny, small, tmp_path / "run", "train.epochs=8")
    assert found["auc"] > 0.65 and 0.8 < found["pcoc"] < 1.2
    for name in ("config.yaml", "meta.json", "metrics.json", "metrics-valid.json", "predictions.parquet", "encoder"):
        assert (tmp_path / "run" / name).exists()
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["finished"] and meta["rows_per_second"] > 0 and meta["peak_rss_bytes"] > 0
    board = EventAccumulator(str(tmp_path / "run" / "tb")).Reload()
    curves = {f"train/{name}" for name in ("loss", "lr", "rows_per_second", "data_wait")}
    curves |= {f"valid/{name}" for name in ("auc", "gauc", "logloss", "ne", "pcoc", "ece")}
    curves |= {f"embedding_norm/{table}" for table in ("user", "item", "genres", "rated_rating")}
    assert set(board.Tags()["scalars"]) == curves and len(board.Scalars("valid/auc")) == 8
    assert board.Scalars("valid/pcoc")[-1].value == pytest.approx(found["pcoc"], abs=0.3)
    first, last = losses(tmp_path / "run")[:5], losses(tmp_path / "run")[-5:]
    assert np.mean(last) < np.mean(first) - 0.05


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tiny, small, tmp_path):
    a, b = run(tiny, small, tmp_path / "a"), run(tiny, small, tmp_path / "b", "train.loader_workers=3")
    run(tiny, small, tmp_path / "c", "seed=1")
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")
    assert a["auc"] == b["auc"]


@pytest.mark.parametrize("name", GOLDEN_RECIPES)
def test_golden_losses(name, tiny, small, tmp_path):
    """Losses of every step as recorded; `python -m tests.golden.record` writes them anew after a wanted change."""
    run(tiny, small, tmp_path / "run", *GOLDEN_RECIPES[name])
    assert losses(tmp_path / "run") == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-4)


def test_oov_is_never_trained_by_accident(tiny, small, tmp_path):
    """Every id of this log is known, so row 0 of each table keeps its zeros; with oov_rate it is trained on purpose."""
    run(
        tiny, small, tmp_path / "plain", "features.features.genres.column=item.year", "features.features.genres.kind=id"
    )
    run(tiny, small, tmp_path / "dropped", "features.tables={item: {dim: 8, oov_rate: 0.3}}")
    with process_group() as ranks:
        rows = {}
        for name in ("plain", "dropped"):
            model, _ = load_ranker(RunFolder(tmp_path / name), Dataset(small), ranks)
            state = {k: v for k, v in model.state_dict().items() if ".embeddings." in k}
            rows[name] = {k.split(".")[-2]: v.local_shards()[0].tensor[0] for k, v in state.items()}
    assert rows["plain"].keys() == {"user", "item", "genres", "rated_rating"}
    assert all(not row.any() for row in rows["plain"].values())
    assert rows["dropped"]["item"].any() and not rows["dropped"]["user"].any()


def test_a_wild_loss_stops_with_the_batch_saved(tiny, small, tmp_path):
    with pytest.raises(
        InputError, match=r"loss is (nan|inf) at step \d+ .* its rows are in .*bad-batch-rank0\.pt; lower"
    ):
        run(tiny, small, tmp_path / "run", "train.dense.lr=1e30", "train.dense.kind=sgd")
    batch = torch.load(tmp_path / "run" / "bad-batch-rank0.pt", weights_only=True)
    assert len(batch["row"]) == len(batch["label"]) > 0


def test_patience_stops_early_and_the_best_is_kept(tiny, small, tmp_path):
    run(
        tiny,
        small,
        tmp_path / "run",
        "train.epochs=40",
        "train.patience=2",
        "train.tables.lr=1.0",
        "train.dense.lr=0.01",
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    aucs = [line["valid"]["auc"] for line in lines if "valid" in line]
    assert len(aucs) < 40 and aucs.index(max(aucs)) == len(aucs) - 3
    valid = json.loads((tmp_path / "run" / "metrics-valid.json").read_text())
    assert valid["auc"] == pytest.approx(max(aucs), abs=1e-12)


def test_progress_tells_rate_waiting_and_the_time_left(tiny, small, tmp_path, capsys, monkeypatch):
    ticks = count(0, 20)
    monkeypatch.setattr("ranker.train_log.time.monotonic", lambda: float(next(ticks)))
    run(tiny, small, tmp_path / "run", "train.epochs=1")
    steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch 0 step")]
    form = r"epoch 0 step \d+ of 12: loss 0\.\d{5}, [\d,]+ rows/s, \d+% waiting for data, at most \d+:\d\d left"
    assert len(steps) == 12 and all(re.fullmatch(form, line) for line in steps)


def test_the_clip_norm_bounds_the_dense_gradient(tiny, small, tmp_path):
    """With plain SGD at rate 1, no step is longer than the norm that is allowed."""
    sgd = ["train.dense={kind: sgd, lr: 1.0, clip_norm: 1e-6}", "train.epochs=1"]
    run(tiny, small, tmp_path / "run", *sgd)
    with process_group() as ranks:
        model, samples = load_ranker(RunFolder(tmp_path / "run"), Dataset(small), ranks, "last")
        start, _ = build_ranker(load_config(tiny, Recipe), samples, ranks)
        moved = [a.detach() - dense_parameters(start)[n].detach() for n, a in dense_parameters(model).items()]
    length = torch.cat([m.flatten() for m in moved]).norm().item()
    assert 1e-7 < length <= 12 * 1e-6 * 1.01


def test_bf16_trains_on_a_cpu(tiny, small, tmp_path):
    found = run(tiny, small, tmp_path / "run", "train.bf16=true")
    assert 0.5 < found["auc"] < 1 and np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "train.bach_size=3"], "unknown field 'train.bach_size'; did you mean 'batch_size'?"),
        (["--set", "model.sequences.rated.kind=dinn"], "model.sequences.rated.kind"),
        (["--set", "features.features.0.column=usr"], "column 'usr'"),
        (["--set", "features.sequences.0.actions=[likd]"], "'likd'"),
        (["--set", "train.tables.kind=adam"], "adam is fused on CUDA only"),
        (["--set", "model.sequences.rate={}"], "no such sequence in features (there are: rated)"),
    ],
)
def test_mistakes_are_one_line_with_status_2(words, message, tiny, small, tmp_path, capsys):
    command = ["train", str(tiny), "--data", str(small), "--out", str(tmp_path / "run"), *words]
    assert moon.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]


def test_a_run_folder_is_not_trained_over(tiny, small, tmp_path, capsys):
    command = ["train", str(tiny), "--data", str(small), "--out", str(tmp_path / "run")]
    assert moon.main(command) == 0
    assert moon.main(command) == 2
    assert "holds a run already; continue it with --resume" in capsys.readouterr().err
    assert moon.main([*command, "--resume", "--set", "train.dense.lr=0.5"]) == 2
    assert "--resume needs the run's own recipe; train.dense.lr was 0.001 and is 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            pl.lit(0),
            "all labels of split 'valid' are 0, so there is no AUC; prepare it with other split shares or cuts",
        ),
        (pl.col("user") % 2, "no user of split 'valid' has rows of both classes, so there is no GAUC; prepare it with"),
    ],
)
def test_rows_that_cannot_be_judged_stop_before_training(labels, message, tiny, small, tmp_path, capsys):
    data = shutil.copytree(small, tmp_path / "data")
    file = Dataset(data).sample_files("valid")[0]
    pl.read_parquet(file).with_columns(label=labels.cast(pl.Int8)).write_parquet(file)
    assert moon.main(["train", str(tiny), "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    assert f"moon train: {data}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_dataset_is_not_resumed_on(tiny, small, tmp_path, capsys):
    run(tiny, small, tmp_path / "run")
    prepare(MovielensPosters(write_ratings(tmp_path / "raw", seed=9)), tmp_path / "other")
    command = ["train", str(tiny), "--data", str(tmp_path / "other"), "--out", str(tmp_path / "run"), "--resume"]
    assert moon.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("moon train:") and ("own dataset" in error or "another feature schema" in error)


def test_a_compiled_head_gives_the_same_losses(tiny, small, tmp_path, monkeypatch):
    """What is captured and differentiated is as in a run; the compiler behind it (seconds of g++) is left out."""
    compiled, compile_module = [], torch.nn.Module.compile

    def quick(module, **options):
        compiled.append(module)
        compile_module(module, **options, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    changes = ["model.interaction={kind: dcnv2, layers: 2}", "train.epochs=2"]
    run(tiny, small, tmp_path / "a", *changes)
    assert not compiled
    run(tiny, small, tmp_path / "b", *changes, "train.compile_head=true")
    assert [type(module).__name__ for module in compiled] == ["Head"]
    assert np.abs(np.array(losses(tmp_path / "a")) - losses(tmp_path / "b")).max() < 1e-6
