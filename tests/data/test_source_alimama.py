"""alimama_ad_click: histories are the raw cells, the split is by row share, a recipe trains on it, one-line errors."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import moon
from data.dataset import Dataset
from data.sources.alimama import CONTEXT, NAMES, STEPS

FILE = "alimama_sampled_train.txt"


def write_log(root: Path, rows: int = 40, seed: int = 0) -> list[list[str]]:
    """A synthetic file in the format; returns its cells. Row 3 has no history, row 5 a masked middle."""
    rng = np.random.default_rng(seed)
    table = []
    for row in range(rows):
        length = int(rng.integers(1, STEPS + 1)) if row != 3 else 0
        mask = np.arange(STEPS) < length
        kinds = np.where(mask, rng.integers(1, 5, STEPS), 0)
        masks = mask.astype(int)
        if row == 5:
            kinds[:], masks = 1, np.arange(STEPS) % 2
        user = [row % 7, *rng.integers(0, 5, 8)]
        ad = [100 + row % 9, 5, 6, 7, 8, round(rng.random(), 4), row % 2]
        pairs = [*rng.integers(1, 9, STEPS), *rng.integers(1, 9, STEPS)]
        table.append([str(v) for v in (*kinds, *pairs, *masks, *masks, *user, *ad, int(rng.integers(0, 2)))])
    root.mkdir(parents=True, exist_ok=True)
    write_cells(root, table)
    return table


def write_cells(root: Path, table: list[list[str]]) -> None:
    (root / FILE).write_text("".join(",".join(row) + "\n" for row in table))


def prepare(root: Path, out: Path) -> int:
    return moon.main(["prepare", "alimama_ad_click", "--root", str(root), "--out", str(out)])


def check_against_cells(dataset: Dataset, table: list[list[str]]) -> None:
    """Every sample's history, label, ids and context, from the raw cells in plain Python."""
    items = dataset.items().collect()
    ids, users = items["item_id"].to_list(), dataset.users().collect()["user_id"].to_list()
    behaviors = dataset.behaviors()
    seen = 0
    for split in ("train", "valid", "test"):
        for sample in dataset.samples(split).collect().iter_rows(named=True):
            cells = dict(zip(NAMES, table[sample["ts"]], strict=True))
            assert sample["history_row"] == sample["ts"] == seen
            real = [s for s in range(STEPS) if int(cells[f"type_{s}"]) and int(cells[f"mask_{s}"])]
            start = behaviors.offsets[sample["history_row"]]
            span = slice(start, start + sample["history_end"])
            assert sample["history_end"] == len(real) == behaviors.offsets[sample["history_row"] + 1] - start
            assert [ids[i] for i in behaviors.item[span]] == [
                f"pair/{cells[f'category_{s}']}/{cells[f'brand_{s}']}" for s in real
            ]
            assert behaviors.action[span].tolist() == [int(cells[f"type_{s}"]) - 1 for s in real]
            assert ids[sample["item"]] == f"ad/{cells['ad']}" and users[sample["user"]] == int(cells["user"])
            assert sample["label"] == int(cells["label"])
            assert [sample[name] for name in CONTEXT] == [int(cells[name]) for name in CONTEXT]
            seen += 1
    assert seen == len(table)


def test_histories_labels_and_context_are_the_raw_cells(tmp_path):
    table = write_log(tmp_path / "raw")
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    dataset = Dataset(tmp_path / "out")
    check_against_cells(dataset, table)
    assert np.diff(dataset.behaviors().offsets)[[3, 5]].tolist() == [0, STEPS // 2]
    assert dataset.meta["time"] == "row order" and dataset.actions == ["view", "type_2", "type_3", "type_4"]
    assert "order given by the source, times unknown" in dataset.meta["audit"]["history (train)"]


def test_the_real_file(shared, tmp_path):
    root = shared / "datasets" / "alimama_tiny"
    assert prepare(root, tmp_path / "out") == 0
    dataset = Dataset(tmp_path / "out")
    with (root / FILE).open() as file:
        check_against_cells(dataset, list(csv.reader(file)))
    counts = dataset.meta["counts"]
    assert {k: counts[k] for k in ("users", "train", "valid", "test", "rejected")} == {
        "users": 230,
        "train": 400,
        "valid": 50,
        "test": 50,
        "rejected": 0,
    }
    items = dataset.items().collect()
    ads = items.filter(pl.col("item_id").str.starts_with("ad/"))
    assert len(ads) == 297 and ads["price"].is_between(0.5, 1.01).all() and ads["seller"].null_count() == 0
    pairs = items.filter(pl.col("item_id").str.starts_with("pair/"))
    named = pl.format("pair/{}/{}", "category", "brand")
    assert len(pairs) == counts["items"] - 297 and (pairs["item_id"] == pairs.select(named).to_series()).all()
    labels = pl.concat([dataset.samples(s).select("label").collect() for s in ("train", "valid", "test")])
    assert labels["label"].sum() == 210


def test_several_files_and_small_frames_give_the_same_dataset(tmp_path, monkeypatch):
    table = write_log(tmp_path / "one")
    assert prepare(tmp_path / "one", tmp_path / "a") == 0
    (tmp_path / "two").mkdir()
    for name, part in (("1", table[:13]), ("2", table[13:])):
        (tmp_path / "two" / f"alimama_sampled_{name}.txt").write_text("".join(",".join(r) + "\n" for r in part))
    monkeypatch.setattr("data.sources.alimama.FRAME_ROWS", 4)
    assert prepare(tmp_path / "two", tmp_path / "b") == 0
    assert Dataset(tmp_path / "a").fingerprint == Dataset(tmp_path / "b").fingerprint


RECIPE = {
    "name": "ads",
    "seed": 0,
    "features": {
        "features": [
            {"kind": "id", "name": "user", "column": "user"},
            {"kind": "id", "name": "item", "column": "item"},
            {"kind": "id", "name": "category", "column": "item.category"},
            {"kind": "id", "name": "pid", "column": "pid"},
        ],
        "sequences": [{"name": "history", "length": 20, "actions": ["view"], "fields": ["category"]}],
    },
    "model": {"sequences": {"history": {"kind": "din", "hidden": [8]}}, "tower": [8]},
    "train": {"batch_size": 128, "epochs": 1},
}


def test_a_recipe_trains_on_it(tmp_path):
    write_log(tmp_path / "raw", rows=400)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    (tmp_path / "ads.yaml").write_text(yaml.safe_dump(RECIPE))
    run = tmp_path / "run"
    assert moon.main(["train", str(tmp_path / "ads.yaml"), "--data", str(tmp_path / "out"), "--out", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    predictions = pl.read_parquet(run / "predictions.parquet")
    assert len(predictions) == 40 and predictions["score"].is_between(0, 1, closed="none").all()
    assert metrics["rows"] == 40


def cell(row: int, column: str, value: str):
    """A mistake: one cell changed."""

    def change(table: list[list[str]]) -> None:
        table[row][NAMES.index(column)] = value

    return change


def drop_column(table: list[list[str]]) -> None:
    for row in table:
        row.pop()


def empty(table: list[list[str]]) -> None:
    table.clear()


def four_rows(table: list[list[str]]) -> None:
    del table[4:]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (cell(11, "label", "2"), f"{FILE} row 11, column 'label': 2: label is outside {{0, 1}}; 1 of 40 rows are bad"),
        (cell(11, "label", ""), f"{FILE} row 11, column 'label': None: label is null or NaN"),
        (cell(11, "user", ""), f"{FILE} row 11, column 'user_id': None: user_id is null"),
        (cell(11, "user", "bob"), f"{FILE}: not a readable CSV: could not parse `bob`"),
        (cell(11, "type_0", "9"), "history 11, column 'action': 8; it must be a code from 0 to 3"),
        (cell(11, "category_0", ""), f"{FILE} row 11, column 50 (category_0): empty; it must be a whole number"),
        (drop_column, f"{FILE}: 266 columns in the first rows; there must be 267"),
        (empty, f"{FILE}: not a readable CSV: empty"),
        (four_rows, "split 'valid' would be empty under rule 'given'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, mistake, message):
    table = write_log(tmp_path / "raw")
    mistake(table)
    write_cells(tmp_path / "raw", table)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moon")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "out").exists()


def test_no_file_and_an_option_it_does_not_take(tmp_path, capsys):
    assert prepare(tmp_path, tmp_path / "out") == 2
    assert "no file alimama_sampled_*.txt" in capsys.readouterr().err
    write_log(tmp_path)
    arguments = ["prepare", "alimama_ad_click", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert moon.main([*arguments, "--policy", "bts"]) == 2
    assert "--policy: the source alimama_ad_click takes no such option" in capsys.readouterr().err
