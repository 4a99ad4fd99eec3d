"""The simulated log as it is written: repeatable, readable like any other, with photos that show what words do not."""

import colorsys
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from data.dataset import Dataset
from data.errors import InputError
from data.images import load_image, open_images
from data.marketplace import studio
from data.marketplace.__main__ import main
from data.marketplace.catalogue import make_items
from data.marketplace.config import Market, world_of
from data.marketplace.looks import CATEGORIES
from data.marketplace.simulate import simulate
from data.marketplace.style import COLOURS, STYLE_DIM
from data.prepare import prepare
from data.sources.tabular import Tabular

SMALL = Market(days=5, later_days=2, items=300, users=200, sessions_per_day=400, image_size=32)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(SMALL, tmp_path_factory.mktemp("market") / "raw")


@pytest.fixture(scope="module")
def log(raw: Path) -> pl.DataFrame:
    return pl.read_parquet(raw / "impressions" / "*.parquet")


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_world_is_the_same_to_the_last_byte(raw, tmp_path):
    assert digests(simulate(SMALL, tmp_path / "again")) == digests(raw)
    other = digests(simulate(SMALL.model_copy(update={"seed": 1}), tmp_path / "other"))
    same = [name for name, digest in digests(raw).items() if other[name] == digest]
    assert same == ["columns.yaml"]


def test_many_hands_draw_the_same_photos(raw, monkeypatch):
    jobs = [(item, None if item % 2 else item) for item in range(40)]
    drawn = []
    for enough in (1, 10**9):
        monkeypatch.setattr(studio, "WORTH_A_POOL", enough)
        with studio.Studio(make_items(SMALL), SMALL) as hands:
            drawn.append(list(hands.draw(jobs)))
    assert drawn[0] == drawn[1]
    assert drawn[0][1] == open_images({"kind": "tar", "path": str(raw / "photos.tar")}).read("sku-000001.jpg")


DRAWING = """
from itertools import count
from data.marketplace import studio
from data.marketplace.catalogue import make_items
from data.marketplace.config import Market
if __name__ == "__main__":
    studio.WORTH_A_POOL, market = 1, Market(items=300, image_size=32)
    with studio.Studio(make_items(market), market) as hands:
        for number, _ in enumerate(hands.draw((n % 300, None) for n in count())):
            if number == 0:
                print(*hands._pool._processes, flush=True)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_no_hand_outlives_a_simulation_that_is_killed(tmp_path):
    (tmp_path / "drawing.py").write_text(DRAWING)
    with subprocess.Popen([sys.executable, str(tmp_path / "drawing.py")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        hands = [Path("/proc") / number for number in process.stdout.readline().decode().split()]
        assert hands and all(hand.is_dir() for hand in hands)
        process.kill()
    end = time.monotonic() + 20
    while any(hand.is_dir() for hand in hands) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(hand.is_dir() for hand in hands)


def test_prepare_reads_it_like_any_log(raw, log, tmp_path):
    meta = prepare(Tabular(raw, raw / "columns.yaml"), tmp_path / "dataset")
    assert meta["counts"]["rejected"] == 0 and meta["actions"] == ["click", "cart", "order"]
    assert sum(meta["counts"][s] for s in ("train", "valid", "test")) == len(log) == 5 * 400 * 6
    items = Dataset(tmp_path / "dataset").items().collect()
    stores = {store["role"]: open_images(store) for store in meta["images"]}
    assert load_image(stores["item"], items["image_key"][7]).size == (32, 32)
    assert set(stores["item"].keys()) == set(items["image_key"])
    assert set(stores["query"].keys()) == set(log["query_photo"].drop_nulls())
    assert all(load_image(stores["query"], key).size == (32, 32) for key in log["query_photo"].drop_nulls()[:60])


def test_a_query_is_a_text_or_a_photo(log):
    one = log.unique("request")
    assert (one["query"].is_null() != one["query_photo"].is_null()).all()
    assert one["query_photo"].is_not_null().mean() == pytest.approx(SMALL.image_queries, abs=0.04)
    texts = one["query"].drop_nulls()
    assert texts.str.contains("|".join(COLOURS)).mean() == pytest.approx(SMALL.colour_queries, abs=0.05)
    assert set(texts.str.split(" ").list.last()) == set(CATEGORIES)


def test_actions_follow_the_clicks_they_belong_to(raw, log):
    actions = pl.read_parquet(raw / "actions" / "*.parquet")
    joined = actions.join(log, on=["request", "sku", "uid"], how="left", suffix="_shown")
    assert (joined["clicked"] == 1).all() and (joined["time"] > joined["time_shown"]).all()
    counts = dict(actions["action"].value_counts().iter_rows())
    assert counts["click"] == log["clicked"].sum() > counts["cart"] > counts["order"] > 0
    assert counts["cart"] / counts["click"] == pytest.approx(SMALL.cart_rate, abs=0.06)


def test_new_items_are_shown_only_after_they_are_born(log):
    born = make_items(SMALL).born
    day = (log["time"].to_numpy() - SMALL.first_day) // 86_400
    item = log["sku"].str.slice(4).cast(pl.Int64).to_numpy()
    assert (born[item] <= day).all() and len(np.unique(born)) == SMALL.days + SMALL.later_days
    assert len(set(item[day > 0]) & set(np.flatnonzero(born > 0))) > 30


def test_click_rates_are_in_the_documented_ranges(log):
    rate = log.group_by("slot").agg(pl.col("clicked").mean()).sort("slot")["clicked"].to_numpy()
    assert 0.03 < log["clicked"].mean() < 0.12
    decay = (rate[3:].sum() / rate[:3].sum()) ** (1 / 3)
    assert decay == pytest.approx(SMALL.position_decay, abs=0.06)


def test_the_logs_hold_bids_and_what_clicks_cost(log):
    items = make_items(SMALL)
    item = log["sku"].str.slice(4).cast(pl.Int64).to_numpy()
    assert (items.bid[item] >= items.reserve[item]).all() and (log["bid"].to_numpy() == items.bid[item]).all()
    clicked = log.filter(pl.col("clicked") == 1)
    assert (log.filter(pl.col("clicked") == 0)["charge"] == 0).all()
    assert (clicked["charge"] <= clicked["bid"]).all() and (clicked["charge"] > 0).all()


def test_a_world_is_read_back_from_its_logs(raw):
    assert world_of(raw) == SMALL
    with pytest.raises(InputError, match=r"market\.yaml: no such config file"):
        world_of(raw / "impressions")


def test_photos_show_what_titles_do_not(raw):
    photos = open_images({"kind": "tar", "path": str(raw / "photos.tar")})
    items = make_items(SMALL)
    centre = [
        np.asarray(load_image(photos, f"sku-{i:06d}.jpg"), float)[18:22, 14:18].mean((0, 1)) / 255
        for i in range(len(items))
    ]
    seen = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in centre])
    plain = (items.looks.style.pattern == 0) & (items.category != CATEGORIES.index("lamp"))
    off = np.abs((seen - items.looks.style.hue + 0.5) % 1 - 0.5)[plain]
    assert np.median(off) < 0.03
    titles = pl.read_parquet(raw / "items.parquet")["name"]
    assert not titles.str.contains("stripes|dots|checks|waves").any()
    assert titles.str.contains("|".join(COLOURS)).mean() == pytest.approx(SMALL.colour_named, abs=0.1)


def test_mistakes_are_named(raw, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        simulate(SMALL, raw)
    with pytest.raises(InputError, match="6 slots need more"):
        simulate(Market(items=50), tmp_path / "none")
    for wrong, message in (
        ("content_share=0.9", r"content_share \+ category_share \+ price_share = 1.2; at most 1"),
        ("candidates=4", "candidates = 4 cannot fill slots = 6"),
        ("ctrr=0.1", "unknown field 'ctrr'; did you mean 'ctr'"),
        ("ctr", "expected FIELD=VALUE"),
    ):
        with pytest.raises(InputError, match=message):
            main(["--out", str(tmp_path / "none"), "--set", wrong])
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_world_of_its_fields(tmp_path, capsys):
    fields = ("days=3", "items=300", "users=50", "sessions_per_day=20", "image_size=16", "first_day=0")
    words = [word for field in fields for word in ("--set", field)]
    assert main(["--out", str(tmp_path / "raw"), "--seed", "3", *words]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "raw")
    assert pl.read_parquet(tmp_path / "raw" / "impressions" / "*.parquet")["time"].max() < 3 * 86_400
    assert yaml.safe_load((tmp_path / "raw" / "columns.yaml").read_text())["name"] == "marketplace"


def test_real_photos_when_they_are_given(shared, tmp_path):
    """Photos, titles and colours of a real catalogue; the rest of the world is as before."""
    folder = str(shared / "datasets" / "fashion_products")
    market = Market(photos=folder, days=4, later_days=2, items=400, users=60, sessions_per_day=120, image_size=64)
    items = make_items(market)
    assert (
        len(items.looks.categories) == 8
        and len(items) >= 400
        and items.vector.std(0) == pytest.approx(np.ones(STYLE_DIM))
    )
    assert (items.born[items.spu >= items.looks.products] >= 4).all() and (
        items.born[items.spu < items.looks.products] < 4
    ).all()
    titles = {}
    for product, title, category in zip(items.spu, items.looks.title, items.category, strict=True):
        assert titles.setdefault(product, (title, category)) == (title, category)
    logs = simulate(market, tmp_path / "logs")
    meta = prepare(Tabular(logs, logs / "columns.yaml"), tmp_path / "data")
    real, ours = open_images({"kind": "tar", "path": f"{folder}/images.tar"}), {s["role"]: s for s in meta["images"]}
    assert open_images(ours["item"]).read("sku-000007.jpg") == real.read(items.looks.files[7])
    queries = open_images(ours["query"])
    assert load_image(queries, next(iter(queries.keys()))).size == (64, 64)
    wear = pl.read_parquet(f"{folder}/items.parquet")
    colour = dict(wear.select("item_id", "base_colour").iter_rows())
    worn = np.array([str(colour[int(name.split(".")[0])]) for name in items.looks.files])
    for row, word in enumerate(items.looks.colours):  # a colour word wants the look of what has that colour
        likeness = items.vector @ items.looks.wanted[row]
        if (worn == word).sum() >= 10:
            assert likeness[worn == word].mean() > likeness[worn != word].mean() + 1
    with pytest.raises(InputError, match="photos of its 8 commonest types"):
        make_items(market.model_copy(update={"items": 9000}))
    with pytest.raises(InputError, match="no such file"):
        make_items(market.model_copy(update={"photos": str(tmp_path)}))
