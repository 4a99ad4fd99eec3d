"""The simulated log: repeatable, true to its propensities and parameters, and readable like any other."""

import colorsys
import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from data.dataset import Dataset
from data.errors import InputError
from data.images import load_image, open_images
from data.marketplace.catalogue import CATEGORIES, STYLE_DIM, make_items
from data.marketplace.config import Market
from data.marketplace.exposure import retrieve, show, true_ctr
from data.marketplace.simulate import simulate
from data.marketplace.users import make_users, utility
from data.prepare import prepare
from data.sources.tabular import Tabular

SMALL = Market(days=5, items=300, users=200, sessions_per_day=400, image_size=32)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(SMALL, tmp_path_factory.mktemp("market") / "raw")


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_world_is_the_same_to_the_last_byte(raw, tmp_path):
    assert digests(simulate(SMALL, tmp_path / "again")) == digests(raw)
    other = digests(simulate(SMALL.model_copy(update={"seed": 1}), tmp_path / "other"))
    same = [name for name, digest in digests(raw).items() if other[name] == digest]
    assert same == ["columns.yaml"]


def test_prepare_reads_it_like_any_log(raw, tmp_path):
    meta = prepare(Tabular(raw, raw / "columns.yaml"), tmp_path / "dataset")
    assert meta["counts"]["rejected"] == 0 and meta["actions"] == ["click", "cart", "order"]
    assert sum(meta["counts"][s] for s in ("train", "valid", "test")) == 5 * 400 * 6
    items = Dataset(tmp_path / "dataset").items().collect()
    images = open_images(meta["images"][0])
    assert load_image(images, items["image_key"][7]).size == (32, 32)
    assert len(set(images.keys())) == 300


def test_new_items_are_shown_only_after_they_are_born(raw):
    log = pl.read_parquet(raw / "impressions" / "*.parquet")
    born = make_items(SMALL).born
    day = (log["time"].to_numpy() - SMALL.first_day) // 86_400
    item = log["sku"].str.slice(4).cast(pl.Int64).to_numpy()
    assert (born[item] <= day).all() and len(np.unique(born)) == SMALL.days


def test_each_slot_s_propensities_sum_to_one_and_are_the_frequencies():
    market = Market(slots=3, greed=1.0, exploration=0.2)
    rng, sessions = np.random.default_rng(0), 60_000
    candidates = np.tile(np.array([4, 7, 9, 11, -1]), (sessions, 1))
    score = np.tile(np.array([0.0, 1.0, -1.0, 0.5, 9.0]), (sessions, 1))
    shown = show(candidates, score, market, rng)
    assert (shown.item >= 0).all()
    assert all(len(set(row)) == 3 for row in shown.item[:500].tolist())
    soft = np.exp(score[0, :4]) / np.exp(score[0, :4]).sum()
    for place, item in enumerate((4, 7, 9, 11)):
        expected = 0.8 * soft[place] + 0.2 / 4
        chosen = shown.item[:, 0] == item
        assert shown.propensity[chosen, 0] == pytest.approx(expected)
        assert chosen.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / sessions))
    after_seven = shown.item[:, 0] == 7
    total = {i: shown.propensity[after_seven & (shown.item[:, 1] == i), 1].mean() for i in (4, 9, 11)}
    assert sum(total.values()) == pytest.approx(1.0)
    for item, p in total.items():
        assert (shown.item[after_seven, 1] == item).mean() == pytest.approx(p, abs=0.015)


def test_examination_falls_by_the_stated_share_a_slot():
    items, users = make_items(SMALL), make_users(SMALL)
    user, item = np.arange(50), np.arange(50)
    first = true_ctr(items, users, SMALL, user, item, np.zeros(50))
    assert true_ctr(items, users, SMALL, user, item, np.full(50, 3)) == pytest.approx(first * 0.85**3)


def test_utility_has_the_stated_variance_and_shares():
    market = Market(items=4000, users=4000)
    items, users = make_items(market), make_users(market)
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 4000, (2, 200_000))
    whole = utility(items, users, market, user, item)
    assert whole.std() == pytest.approx(market.utility_spread, rel=0.1)
    content = np.einsum("nd,nd->n", users.taste[user], items.style[item]) / np.sqrt(STYLE_DIM)
    assert np.corrcoef(content, whole)[0, 1] ** 2 == pytest.approx(market.content_share, abs=0.06)
    none = utility(items, users, market.model_copy(update={"content_share": 0.0}), user, item)
    assert abs(np.corrcoef(content, none)[0, 1]) < 0.02


def test_retrieval_gives_born_items_of_the_category_without_repeats():
    items = make_items(SMALL)
    found = retrieve(items, 1, np.array([0, 3, 3]), 40, np.random.default_rng(0))
    for category, row in zip((0, 3, 3), found, strict=True):
        real = row[row >= 0]
        assert len(set(real.tolist())) == len(real) == min(40, ((items.category == category) & (items.born <= 1)).sum())
        assert (items.category[real] == category).all() and (items.born[real] <= 1).all()


def test_photos_show_what_titles_do_not(raw):
    photos = open_images({"kind": "tar", "path": str(raw / "photos.tar")})
    items = make_items(SMALL)
    centre = [
        np.asarray(load_image(photos, f"sku-{i:06d}.jpg"), float)[18:22, 14:18].mean((0, 1)) / 255 for i in range(300)
    ]
    seen = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in centre])
    plain = (items.pattern == 0) & (items.category != CATEGORIES.index("lamp"))
    off = np.abs((seen - items.hue + 0.5) % 1 - 0.5)[plain]
    assert np.median(off) < 0.03
    titles = pl.read_parquet(raw / "items.parquet")["name"]
    assert not titles.str.contains("stripes|dots|checks|waves").any()


def test_mistakes_are_named(raw, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        simulate(SMALL, raw)
    with pytest.raises(InputError, match="6 slots need more"):
        simulate(Market(items=50), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert yaml.safe_load((raw / "columns.yaml").read_text())["name"] == "marketplace"
