"""A user's own logs: the documented example runs, behaviours from several files order in time, errors are one line."""

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
        ("impressions.user", "price_shown", "column 'price_shown' is Float64; an id must be whole numbers or text"),
        ("behaviors.0.when", "clicked", "is no rule; write COLUMN OPERATOR VALUE"),
        ("behaviors.1.action", "click", "action 'click' stands twice"),
        ("split.train", 0.95, "train + valid must be below 1"),
        ("images.0.kind", "zip", "images.0.kind"),
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


def test_no_column_map_is_one_line(logs, capsys):
    assert moon.main(["prepare", "tabular", "--root", str(logs), "--out", str(logs.parent / "out")]) == 2
    assert "needs --columns FILE" in capsys.readouterr().err
