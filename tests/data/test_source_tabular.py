"""A user's own logs: the documented example runs, behaviours from several files order in time, errors are one line."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

import moon
from data.dataset import Dataset
from data.images import load_image, open_images
from data.sources.tabular import Tabular

DOC = Path(__file__).parents[2] / "docs" / "tabular.md"
EXAMPLE = yaml.safe_load(re.search(r"```yaml\n(.*?)```", DOC.read_text(), re.S)[1])  # pyright: ignore[reportOptionalSubscript]
T0 = 1_700_000_000


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Files as docs/tabular.md describes them."""
    root, rng = tmp_path / "logs", np.random.default_rng(0)
    (root / "impressions").mkdir(parents=True)
    (root / "photos").mkdir()
    rows = pl.DataFrame(
        {
            "uid": rng.integers(0, 9, 400),
            "sku": [f"s{i}" for i in rng.integers(0, 20, 400)],
            "shown_at": (T0 + np.sort(rng.choice(200_000, 400, replace=False))) * 1000,
            "clicked": rng.integers(0, 2, 400),
            "request": np.arange(400) // 4,
            "slot": np.arange(400) % 4 + 1,
            "p_shown": rng.random(400) * 0.5 + 0.1,
            "search_text": ["red shoe"] * 400,
            "search_photo": pl.Series([None] * 400, dtype=pl.String),
            "device": ["ios", "web"] * 200,
            "hour": np.arange(400) % 24,
            "price_shown": rng.random(400),
        }
    )
    rows.head(250).write_parquet(root / "impressions" / "a.parquet")
    rows.tail(150).write_parquet(root / "impressions" / "b.parquet")
    orders = rows.filter(pl.col("clicked") == 1).gather_every(5)
    at = pl.from_epoch(orders["shown_at"] // 1000 + 60, time_unit="s").dt.strftime("%Y-%m-%d %H:%M:%S")
    orders.select("uid", "sku", ordered_at=at).write_csv(root / "orders.csv")
    pl.DataFrame({"words": ["white shoe", "boot"], "sku": ["s3", "s4"]}).write_csv(root / "known.csv")
    names = [f"s{i}" for i in range(18)]
    pl.DataFrame(
        {
            "sku": names,
            "name": [f"Shoe {i}" for i in range(18)],
            "category": ["shoe"] * 18,
            "shop": ["a", "b"] * 9,
            "price": np.arange(18.0),
            "photo": [f"{n}.png" for n in names],
            "colour": ["red"] * 18,
        }
    ).write_parquet(root / "items.parquet")
    pl.DataFrame({"uid": range(9), "age_group": [i % 3 for i in range(9)]}).write_csv(root / "users.csv")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(root / "photos" / "s3.png")
    return root


def run(logs: Path, changed: dict | None = None) -> int:
    """`moon prepare tabular` with the documented map, changed."""
    columns = logs.parent / "columns.yaml"
    columns.write_text(yaml.safe_dump(EXAMPLE if changed is None else changed))
    out = str(logs.parent / "out")
    return moon.main(["prepare", "tabular", "--root", str(logs), "--columns", str(columns), "--out", out])


def test_the_documented_example_runs(logs):
    assert run(logs) == 0
    dataset = Dataset(logs.parent / "out")
    assert dataset.meta["source"] == "my_shop" and dataset.actions == ["click", "order"]
    assert sum(dataset.meta["counts"][s] for s in ("train", "valid", "test")) == 400
    items = dataset.items().collect()
    assert len(items) == 20 and items.filter(item_id="s3")["colour"][0] == "red"
    assert items.filter(item_id="s19")["title"][0] is None
    rows = dataset.samples("train").collect()
    assert rows["ts"].is_sorted() and rows["position"].max() == 4 and set(rows["device"]) == {"ios", "web"}
    assert rows["propensity"].is_between(0.1, 0.6).all() and rows["query"][0] == "red shoe"
    assert load_image(open_images(dataset.meta["images"][0]), "s3.png").size == (8, 8)


def test_histories_merge_files_in_time_and_leave_the_own_click_out(logs):
    assert run(logs) == 0
    dataset = Dataset(logs.parent / "out")
    raw = pl.concat([pl.read_parquet(f) for f in sorted((logs / "impressions").glob("*"))])
    orders = pl.read_csv(logs / "orders.csv", try_parse_dates=True)
    clicks = raw.filter(pl.col("clicked") == 1).select("uid", ts=pl.col("shown_at") // 1000, action=pl.lit(0))
    bought = orders.select("uid", ts=pl.col("ordered_at").dt.epoch("s"), action=pl.lit(1))
    events = pl.concat([clicks, bought])
    behaviors, users = dataset.behaviors(), dataset.users().collect()["user_id"].to_list()
    for row in dataset.samples("test").collect().iter_rows(named=True):
        past = events.filter((pl.col("uid") == users[row["user"]]) & (pl.col("ts") < row["ts"])).sort("ts")
        start = behaviors.offsets[row["user"]]
        stored = behaviors.ts[start : start + row["history_end"]]
        assert stored.tolist() == past["ts"].to_list()
        assert behaviors.action[start : start + row["history_end"]].tolist() == past["action"].to_list()


def test_a_rule_makes_the_label(logs):
    changed = json.loads(json.dumps(EXAMPLE))
    changed["impressions"]["label"] = "slot <= 2"
    assert run(logs, changed) == 0
    rows = Dataset(logs.parent / "out").samples("train").collect()
    assert (rows["label"] == (rows["position"] <= 2)).all()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("impressions.user", "uuid", "column 'uuid' is missing; did you mean 'uid'?"),
        ("impressions.files", "impression/*.parquet", "no file matches 'impression/*.parquet'"),
        ("impressions.ts_unit", "s", "ts looks like milliseconds, give seconds"),
        ("impressions.ts_unit", "minutes", "impressions.ts_unit"),
        ("impressions.label", "hour", "label is outside {0, 1}"),
        ("impressions.context", {"device": "whole"}, "a column does not fit its kind"),
        ("impressions.labell", "x", "unknown field 'impressions.labell'; did you mean 'label'?"),
        ("impressions.user", "price_shown", "column 'price_shown' is Float64; it must be whole numbers or text"),
        ("behaviors.0.when", "clicked", "is no rule; write COLUMN OPERATOR VALUE"),
        ("behaviors.1.action", "click", "action 'click' stands twice"),
        ("split.train", 0.95, "train + valid must be below 1"),
        ("images.0.kind", "zip", "images.0.kind"),
        ("images.0.path", "photoz", "logs/photoz: no such folder"),
        ("impressions.context", {"hour": "int"}, "impressions.context.hour"),
        ("impressions.context", {"item": "whole"}, "'item' is a name that prepared samples use themselves"),
        ("impressions.position", "device", "a column does not fit its kind"),
        ("impressions.label", "device == 3", "a column does not fit its kind"),
        ("impressions.ts", "device", "column 'device' is String; ts_unit ms needs numbers"),
        ("impressions.ts_unit", "us", "column 'shown_at' holds times of 1970 if read in us; is ts_unit s right?"),
        ("impressions.ts_unit", "datetime", "column 'shown_at' is Int64; ts_unit datetime needs a datetime"),
        ("behaviors.0.when", "device == 3", "rule 'device == 3' does not fit"),
        ("behaviors.1.wen", "uid == 3", "unknown field 'behaviors.1.files.wen'; did you mean 'when'?"),
        ("behaviors.0.user", "uid", "behaviors.0.files.files: Field required"),
        ("behaviors.1.files", "orders.xlsx", "no file matches 'orders.xlsx'"),
        ("behaviors.1.ts_unit", "s", "column 'ordered_at' is String; ts_unit s needs numbers"),
        ("catalogue.columns", ["color"], "items.parquet: column 'color' is missing; did you mean 'colour'?"),
        ("catalogue.item", "price", "items.parquet: column 'price' is Float64; it must be whole numbers or text"),
        ("users.columns", ["age"], "users.csv: column 'age' is missing"),
        ("split.cuts", [5, 3], "cuts are two ascending times"),
        ("split.cuts", [5, 6], "split 'train' would be empty"),
    ],
)
def test_mistakes_are_one_line(logs, path, value, message, capsys):
    changed = json.loads(json.dumps(EXAMPLE))
    *parents, last = path.split(".")
    node = changed
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[last] = value
    assert run(logs, changed) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("moon prepare: ")
    assert not (logs.parent / "out").exists()


def rewrite(file: Path, **columns: pl.Expr) -> None:
    pl.read_parquet(file).with_columns(**columns).write_parquet(file)


def one_cell(column: str, row: int, value: object) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(column))


def error_line(logs: Path, capsys: pytest.CaptureFixture[str], changed: dict | None = None) -> str:
    """The one line of a run that fails on its input."""
    assert run(logs, changed) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moon")]
    assert len(lines) == 1 and not (logs.parent / "out").exists()
    return lines[0]


def test_one_column_may_be_the_position_and_a_context(logs):
    rewrite(logs / "impressions/b.parquet", hour=pl.col("hour").cast(pl.Float64))
    assert run(logs, {**EXAMPLE, "impressions": {**EXAMPLE["impressions"], "position": "hour"}}) == 0


@pytest.mark.parametrize(
    ("file", "columns", "message"),
    [
        ("impressions/b.parquet", {"uid": pl.col("uid").cast(pl.Float64)}, "b.parquet: column 'uid' is Float64; it"),
        ("impressions/b.parquet", {"sku": pl.lit(None, pl.String)}, "b.parquet row 0, column 'item_id': None: item_id"),
        ("impressions/b.parquet", {"clicked": pl.lit(float("nan"))}, "b.parquet row 0, column 'label': nan: label is"),
        (
            "items.parquet",
            {"sku": one_cell("sku", 7, None)},
            "items.parquet row 7, column 'sku': no value; a table row",
        ),
        ("items.parquet", {"sku": one_cell("sku", 7, "s3")}, "'item_id': 's3' stands there twice"),
        (
            "impressions/b.parquet",
            {"hour": one_cell("hour", 9, 1.5)},
            "row 9, column 'hour': 1.5 is not a whole number",
        ),
    ],
)
def test_bad_cells_are_one_line(logs, capsys, file, columns, message):
    rewrite(logs / file, **columns)
    assert message in error_line(logs, capsys)


def test_a_truncated_part_is_named(logs, capsys):
    part = logs / "impressions" / "b.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    assert "b.parquet: not a readable parquet file (truncated?)" in error_line(logs, capsys)


def test_a_damaged_page_is_named(logs, capsys):
    part = logs / "impressions" / "b.parquet"
    data = bytearray(part.read_bytes())
    data[4:400] = b"\xff" * 396
    part.write_bytes(bytes(data))
    assert "b.parquet: damaged near row 0" in error_line(logs, capsys)


def test_a_file_of_another_kind_is_named(logs, capsys):
    (logs / "orders.csv").rename(logs / "orders.txt")
    changed = json.loads(json.dumps(EXAMPLE))
    changed["behaviors"][1]["files"] = "orders.txt"
    assert "orders.txt: ends with '.txt'; give .parquet, .csv or .tsv files" in error_line(logs, capsys, changed)


def test_rejected_rows_keep_their_number_in_the_file(logs):
    part = logs / "impressions" / "b.parquet"
    bad = int(pl.read_parquet(part)["clicked"].to_numpy().nonzero()[0][1])
    rewrite(part, sku=one_cell("sku", bad, None))
    assert run(logs) == 0
    rejected = pl.read_parquet(logs.parent / "out" / "rejected.parquet")
    assert rejected.select("row", "reason").rows() == [(bad, "item_id is null")] * 2  # the impression and its click
    assert all(file.endswith("b.parquet") for file in rejected["file"])


def fingerprint(logs: Path, changed: dict | None = None) -> str:
    assert run(logs, changed) == 0
    return Dataset(logs.parent / "out").fingerprint


def test_tabs_gzip_and_small_chunks_give_the_same_dataset(logs, monkeypatch):
    first = fingerprint(logs)
    rows = pl.concat([pl.read_parquet(f) for f in sorted((logs / "impressions").glob("*"))])
    (logs / "impressions" / "c.csv.gz").write_bytes(gzip.compress(rows.write_csv().encode()))
    pl.read_csv(logs / "orders.csv").write_csv(logs / "orders.tsv", separator="\t")
    changed = json.loads(json.dumps(EXAMPLE))
    changed["impressions"]["files"] = "impressions/*.csv.gz"
    changed["behaviors"][1]["files"] = ["orders.tsv"]
    monkeypatch.setattr("data.source.CHUNK_ROWS", 7)
    for example in (EXAMPLE, changed):
        assert fingerprint(logs, example) == first
        chunks = list(Tabular(logs, logs.parent / "columns.yaml").chunks())
        assert max(len(chunk.frame) for chunk in chunks) == 7 and len(chunks) > 2 * 400 / 7


def test_an_id_keeps_its_zeros_where_ids_are_text(logs):
    users = pl.read_csv(logs / "users.csv").with_columns(uid=pl.format("00{}", "uid"))
    users.write_csv(logs / "users.csv")
    orders = pl.read_csv(logs / "orders.csv").with_columns(uid=pl.format("00{}", "uid"))
    orders.write_csv(logs / "orders.csv")
    for part in (logs / "impressions").glob("*"):
        rewrite(part, uid=pl.format("00{}", "uid"))
    assert run(logs) == 0
    found = Dataset(logs.parent / "out").users().collect()
    assert found["user_id"].to_list() == [f"00{i}" for i in range(9)]
    assert found["age_group"].to_list() == [i % 3 for i in range(9)]


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%d %H:%M:%S%.3f", "%Y-%m-%dT%H:%M:%SZ"])
def test_iso_times_are_read(logs, form):
    first = fingerprint(logs)
    orders = pl.read_csv(logs / "orders.csv", try_parse_dates=True)
    orders.with_columns(pl.col("ordered_at").dt.strftime(form)).write_csv(logs / "orders.csv")
    assert fingerprint(logs) == first


def test_a_time_with_the_day_first_is_not_guessed(logs, capsys):
    orders = pl.read_csv(logs / "orders.csv", try_parse_dates=True)
    orders.with_columns(pl.col("ordered_at").dt.strftime("%d/%m/%Y %H:%M:%S")).write_csv(logs / "orders.csv")
    assert "orders.csv row 0, column 'ts': None: ts is null" in error_line(logs, capsys)


def test_no_column_map_is_one_line(logs, capsys):
    assert moon.main(["prepare", "tabular", "--root", str(logs), "--out", str(logs.parent / "out")]) == 2
    assert "needs --columns FILE" in capsys.readouterr().err
