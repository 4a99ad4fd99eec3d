"""taobao_mm: histories by user and part, misses counted, parts streamed, vectors, one-line errors."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import moon
from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from data.sources.taobao_mm import CATEGORIES, HISTORY, USER_ATTRIBUTES, VECTORS, TaobaoMM

LISTS = {HISTORY: pl.List(pl.Int64), CATEGORIES: pl.List(pl.Int64)}


def write_tables(root: Path, seed: int = 0) -> Path:
    """The six tables, joining partly: train users 1..6 and 9, test users 4..8 (two without features)."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)

    def samples(users: list[int], rows: int) -> pl.DataFrame:
        click = rng.integers(0, 2, rows)
        label = pl.Series("label_0", [[1 - c, c] for c in click.tolist()], pl.List(pl.Int8))
        return pl.DataFrame([label]).with_columns(
            pl.Series("129_1", rng.choice(users, rows)), pl.Series("205", rng.integers(-20, 20, rows))
        )

    def features(users: list[int]) -> pl.DataFrame:
        lengths = rng.integers(0, 7, len(users))
        columns = {
            "129_1": users,
            **{name: rng.integers(-9, 9, len(users)) for name in USER_ATTRIBUTES},
            HISTORY: [rng.integers(-40, 40, n).tolist() for n in lengths],
            CATEGORIES: [rng.integers(-5, 5, n).tolist() for n in lengths],
        }
        return pl.DataFrame(columns, schema_overrides=LISTS)

    items = np.arange(-20, 15)
    samples([1, 2, 3, 9], 30).write_parquet(root / "train_samples.parquet")
    samples([4, 5, 6, 8], 20).write_parquet(root / "test_samples.parquet")
    features([3, 1, 2, 4]).write_parquet(root / "train_user_features.parquet")
    features([5, 4, 6]).write_parquet(root / "test_user_features.parquet")
    attributes = {name: items + i for i, name in enumerate(("205", "206", "213", "214"))}
    pl.DataFrame(attributes).write_parquet(root / "item_features.parquet")
    vectors = rng.integers(-38, 39, (len(items), 8)).astype(np.int8).tolist()
    table = pl.DataFrame({"205": items, "205_c": vectors}, schema_overrides={"205_c": pl.List(pl.Int8)})
    table.write_parquet(root / f"{VECTORS}.parquet")
    return root


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "raw")


def check_against_tables(dataset: Dataset, root: Path) -> tuple[int, int]:
    """Every sample against the raw tables by plain look-ups; returns (samples without features, behaviours seen)."""
    users, items = (getattr(dataset, n)().collect()[f"{n[:-1]}_id"].to_list() for n in ("users", "items"))
    behaviors, missed, seen = dataset.behaviors(), 0, 0
    raw, known = [], []
    for part in ("train", "test"):
        raw += pl.read_parquet(root / f"{part}_samples.parquet").with_columns(part=pl.lit(part)).to_dicts()
        table = pl.read_parquet(root / f"{part}_user_features.parquet").to_dicts()
        known.append({row["129_1"]: row for row in table})
    at = 0
    for split in ("train", "valid", "test"):
        for sample in dataset.samples(split).collect().iter_rows(named=True):
            row = raw[at]
            assert (sample["ts"], sample["label"]) == (at, row["label_0"][1])
            assert (row["part"] == "test") == (split == "test")
            assert (users[sample["user"]], items[sample["item"]]) == (row["129_1"], row["205"])
            features = known[row["part"] == "test"].get(row["129_1"])
            start = behaviors.offsets[sample["history_row"]]
            span = slice(start, start + sample["history_end"])
            assert start + sample["history_end"] == behaviors.offsets[sample["history_row"] + 1]
            if features is None:
                assert sample["history_row"] == 0 and sample["history_end"] == 0
                assert all(sample[f"user_{name}"] is None for name in USER_ATTRIBUTES)
                missed += 1
            else:
                assert [items[i] for i in behaviors.item[span]] == features[HISTORY]
                assert behaviors.side["category"][span].tolist() == features[CATEGORIES]
                assert all(sample[f"user_{name}"] == features[name] for name in USER_ATTRIBUTES)
                seen += sample["history_end"]
            at += 1
    assert at == len(raw)
    return missed, seen


def test_samples_see_the_history_of_their_part(tables, tmp_path):
    meta = prepare(TaobaoMM(tables), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    missed, seen = check_against_tables(dataset, tables)
    assert missed > 3 and seen > 20
    assert {s: meta["counts"][s] for s in ("train", "valid", "test")} == {"train": 27, "valid": 3, "test": 20}
    offsets = dataset.behaviors().offsets
    assert len(offsets) == 1 + 1 + 4 + 3 and offsets[1] == 0
    items = dataset.items().collect().filter(pl.col("category").is_not_null())
    assert len(items) == 35 and (items["category"].cast(pl.Int64) == items["item_id"] + 1).all()
    raw = pl.concat([pl.read_parquet(tables / f"{p}_samples.parquet") for p in ("train", "test")])
    lost = [int((frame["205"] > 14).sum()) for frame in (raw.head(30), raw.tail(20))]
    assert f"train: {lost[0]} of 30 rows show an item that the item table lacks" in meta["notes"]
    assert f"test: {lost[1]} of 20 rows show an item that the item table lacks" in meta["notes"]


def test_the_demo_tables_do_not_join_and_that_is_no_error(shared, tmp_path):
    root = shared / "datasets" / "alimama_tiny" / "taobao_mm_demo"
    assert moon.main(["prepare", "taobao_mm", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    dataset = Dataset(tmp_path / "out")
    assert check_against_tables(dataset, root) == (20, 0)
    counts = dataset.meta["counts"]
    assert {s: counts[s] for s in ("train", "valid", "test", "rejected")} == {
        "train": 9,
        "valid": 1,
        "test": 10,
        "rejected": 0,
    }
    stored = dataset.behaviors()
    tables = [pl.read_parquet(root / f"{part}_user_features.parquet") for part in ("train", "test")]
    histories = [[], *(h for table in tables for h in table[HISTORY].to_list())]
    assert np.diff(stored.offsets).tolist() == [len(h) for h in histories]
    ids = dataset.items().collect()["item_id"].to_numpy()
    assert ids[stored.item].tolist() == [i for h in histories for i in h]
    assert stored.side["category"].tolist() == [c for t in tables for h in t[CATEGORIES] for c in h]
    misses = [n for n in dataset.meta["notes"] if n.startswith(("train: 10 of 10", "test: 10 of 10"))]
    assert len(misses) == 4


def test_globs_folders_and_small_chunks_give_the_same_dataset(tables, tmp_path, monkeypatch):
    first = prepare(TaobaoMM(tables), tmp_path / "a")
    parts = tmp_path / "parts"
    parts.mkdir()
    for file in tables.glob("*.parquet"):
        frame = pl.read_parquet(file)
        folder = parts / file.stem if "user" in file.stem else parts
        folder.mkdir(exist_ok=True)
        name = "part" if folder != parts else file.stem
        frame.head(2).write_parquet(folder / f"{name}-00000.parquet")
        frame.slice(2).write_parquet(folder / f"{name}-00001.parquet")
    monkeypatch.setattr("data.sources.taobao_mm.HISTORY_ROWS", 1)
    again = prepare(TaobaoMM(parts), tmp_path / "b")
    assert again["fingerprint"] == first["fingerprint"] and again["notes"] == first["notes"]


def test_vectors_come_in_chunks_with_their_ids(tables, shared):
    raw = pl.read_parquet(tables / f"{VECTORS}.parquet")
    ids, vectors = (np.concatenate(parts) for parts in zip(*TaobaoMM(tables).vectors(), strict=True))
    assert vectors.dtype == np.int8 and ids.tolist() == raw["205"].to_list()
    assert vectors.tolist() == raw["205_c"].to_list()
    demo = list(TaobaoMM(shared / "datasets" / "alimama_tiny" / "taobao_mm_demo").vectors())
    assert demo[0][1].shape == (10, 128) and 110 < np.linalg.norm(demo[0][1].astype(float), axis=1).mean() < 135


def changed(table: str, **columns: pl.Expr):
    """A mistake: columns of a table computed anew."""

    def change(root: Path) -> None:
        file = root / f"{table}.parquet"
        pl.read_parquet(file).with_columns(**columns).write_parquet(file)

    return change


def renamed(root: Path) -> None:
    file = root / "test_samples.parquet"
    pl.read_parquet(file).rename({"129_1": "129_2"}).write_parquet(file)


def truncated(root: Path) -> None:
    file = root / "train_user_features.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def no_rows(root: Path) -> None:
    file = root / "item_features.parquet"
    pl.read_parquet(file).clear().write_parquet(file)


def doubled(root: Path) -> None:
    file = root / "test_user_features.parquet"
    frame = pl.read_parquet(file)
    pl.concat([frame, frame.head(1)]).write_parquet(file)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (renamed, "test_samples.parquet: column '129_1' is missing; did you mean '129_2'?"),
        (truncated, "train_user_features.parquet: not a readable parquet file (truncated?)"),
        (no_rows, "the table item_features holds no rows"),
        (doubled, "test_user_features, column '129_1': 5 stands there twice"),
        (lambda root: shutil.move(root / "item_features.parquet", root / "other"), "no item_features.parquet"),
        (
            changed("train_samples", label_0=pl.lit(1)),
            "train_samples.parquet: column 'label_0' is Int32; it must be lists of whole numbers",
        ),
        (
            changed("train_samples", **{"205": pl.col("205").cast(pl.Float64)}),
            "train_samples.parquet: column '205' is Float64; it must be whole numbers",
        ),
        (
            changed("train_samples", label_0=pl.lit([1, 1])),
            "train_samples.parquet row 0, column 'label': None: label is null or NaN; 30 of 50 rows are bad",
        ),
        (
            changed("train_user_features", **{CATEGORIES: pl.lit([1] * 9)}),
            f"train_user_features.parquet row 0: columns {HISTORY!r} and {CATEGORIES!r} differ in length",
        ),
    ],
)
def test_mistakes_are_one_line(tables, tmp_path, capsys, mistake, message):
    mistake(tables)
    assert moon.main(["prepare", "taobao_mm", "--root", str(tables), "--out", str(tmp_path / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moon")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1] * 7, "row 4, column '205_c': 7 numbers; it must be 8"),
        (None, "row 4, column '205_c': 0 numbers; it must be 8"),
        ([1] * 7 + [None], "row 4, column '205_c': None; it must be an int8"),
        ([1] * 7 + [128], "row 4, column '205_c': 128; it must be an int8"),
    ],
)
def test_a_bad_vector_is_named(tables, vector, message):
    file = tables / f"{VECTORS}.parquet"
    frame = pl.read_parquet(file).cast({"205_c": pl.List(pl.Int16)})
    vectors = frame["205_c"].to_list()
    vectors[4] = vector
    frame.with_columns(pl.Series("205_c", vectors, pl.List(pl.Int16))).write_parquet(file)
    with pytest.raises(InputError) as error:
        list(TaobaoMM(tables).vectors())
    assert str(error.value).endswith(message)
