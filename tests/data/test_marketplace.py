"""The simulated log: repeatable, true to its propensities and parameters, and readable like any other."""

import colorsys
import hashlib
import subprocess
import sys
import time
from itertools import pairwise
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
from data.marketplace.exposure import chances, charges, draw, rank, retrieve
from data.marketplace.looks import CATEGORIES
from data.marketplace.photographed import look_vectors, measure
from data.marketplace.render import catalogue_photo
from data.marketplace.response import draw_luck, respond
from data.marketplace.sessions import draw_sessions
from data.marketplace.simulate import ClickRates, simulate
from data.marketplace.style import COLOURS, STYLE_DIM, colour_vector, draw_styles
from data.marketplace.traffic import PART_SESSIONS, draw_traffic, users_by_day
from data.marketplace.users import make_users
from data.marketplace.utility import content_term, true_ctr, utility
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


def day_of(market: Market, sessions: int = 4000):
    """A world's first day: items, users, sessions, and random items for them (sessions, 5)."""
    market = market.model_copy(update={"sessions_per_day": sessions})
    items, users, rng = make_items(market), make_users(market), np.random.default_rng(0)
    return items, users, draw_sessions(items, users, market, 0, rng), rng.integers(0, len(items), (sessions, 5))


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


def test_products_go_live_at_one_rate_before_and_after_the_logs():
    market = Market(items=6000, days=10, later_days=5)
    items = make_items(market)
    born = np.bincount(items.born[np.unique(items.spu, return_index=True)[1]], minlength=15)
    assert len(born) == 15 and born[10:].mean() == pytest.approx(born[1:10].mean(), rel=0.15)
    assert (items.born < 10).sum() == 6000 and (items.born[6000:] >= 10).all()
    assert len(make_items(Market(items=6000, days=10, later_days=0))) == 6000


def test_click_rates_are_in_the_documented_ranges(log):
    rate = log.group_by("slot").agg(pl.col("clicked").mean()).sort("slot")["clicked"].to_numpy()
    assert 0.03 < log["clicked"].mean() < 0.12
    decay = (rate[3:].sum() / rate[:3].sum()) ** (1 / 3)
    assert decay == pytest.approx(SMALL.position_decay, abs=0.06)


def test_each_slot_s_propensities_sum_to_one_and_are_the_frequencies():
    market = Market(slots=3, greed=1.0, exploration=0.2)
    rng, sessions = np.random.default_rng(0), 60_000
    candidates = np.tile(np.array([4, 7, 9, 11, -1]), (sessions, 1))
    score = np.tile(np.array([0.0, 1.0, -1.0, 0.5, 9.0]), (sessions, 1))
    shown = draw(candidates, score, market, rng)
    assert (shown.item >= 0).all() and (np.take_along_axis(candidates, shown.place, 1) == shown.item).all()
    every = chances(candidates, score, shown.place, market)
    assert every.sum(2) == pytest.approx(np.ones((sessions, 3)))
    assert np.take_along_axis(every, shown.place[:, :, None], 2)[:, :, 0] == pytest.approx(shown.propensity)
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
    items, users, sessions, item = day_of(SMALL, 50)
    at = [true_ctr(items, users, SMALL, sessions.user, sessions.query, item, position) for position in (0, 3)]
    assert at[1] == pytest.approx(at[0] * 0.85**3)


def test_utility_has_the_stated_variance_and_shares():
    market = Market(items=4000, users=4000)
    items, users, sessions, item = day_of(market, 20_000)
    world = (sessions.user, sessions.query, item)
    whole = utility(items, users, market, *world)
    assert whole.std() == pytest.approx(market.utility_spread, rel=0.1)
    content = content_term(items, users, *world)
    assert content.mean() == pytest.approx(0, abs=0.05) and content.std() == pytest.approx(1, abs=0.08)
    assert np.corrcoef(content.ravel(), whole.ravel())[0, 1] ** 2 == pytest.approx(market.content_share, abs=0.06)


def test_at_share_zero_pictures_carry_nothing():
    market = SMALL.model_copy(update={"content_share": 0.0})
    items, users, sessions, item = day_of(market)
    world = (sessions.user, sessions.query, item)
    truth = true_ctr(items, users, market, *world, 0)
    permuted = np.random.default_rng(1).permutation(items.vector)
    others = type(items)(**{**vars(items), "vector": permuted})
    assert (true_ctr(others, users, market, *world, 0) == truth).all()
    assert abs(np.corrcoef(content_term(items, users, *world).ravel(), truth.ravel())[0, 1]) < 0.05
    assert (true_ctr(others, users, SMALL, *world, 0) != true_ctr(items, users, SMALL, *world, 0)).any()


def test_tastes_drift_and_keep_their_variance():
    users = make_users(Market(users=4000))
    later = users
    for day in range(5):
        later = later.next_day(Market(users=4000), day)
    assert np.corrcoef(users.taste.ravel(), later.taste.ravel())[0, 1] == pytest.approx(0.95**5, abs=0.02)
    assert later.taste.std() == pytest.approx(1, abs=0.02)


def test_style_vectors_are_standardised_and_colour_words_lie_on_them():
    rng = np.random.default_rng(0)
    style = draw_styles(np.arange(40_000) // 2, rng)
    vector = style.vector()
    assert vector.shape == (40_000, STYLE_DIM)
    assert vector.mean(0) == pytest.approx(np.zeros(STYLE_DIM), abs=0.03)
    assert vector.std(0) == pytest.approx(np.ones(STYLE_DIM), abs=0.03)
    assert (vector[::2, 3:] == vector[1::2, 3:]).all() and (style.hue[::2] != style.hue[1::2]).all()
    likeness = (vector[:, :2] * colour_vector(style.colour())).sum(1)
    assert likeness.min() > 2 * np.cos(2 * np.pi * 0.11)


def test_retrieval_gives_born_items_of_the_category_and_prefers_what_is_asked_for():
    items, _, sessions, _ = day_of(SMALL, 400)
    query = sessions.query
    market = SMALL.model_copy(update={"candidates": 10})
    found = retrieve(items, market, 1, query, np.random.default_rng(0))
    assert (items.category[found] == query.category[:, None]).all() and (items.born[found] <= 1).all()
    assert (items.bid[found] >= items.reserve[found]).all()
    assert all(len(set(row)) == 10 for row in found.tolist())
    photo = query.photographed >= 0
    hit = (found[photo] == query.photographed[photo, None]).any(1)
    assert hit.mean() > 0.85
    everything = retrieve(items, SMALL, 1, query, np.random.default_rng(0))
    alive = np.array([len(items.alive(c, 1)) for c in query.category])
    assert ((everything >= 0).sum(1) == np.minimum(40, alive)).all()


def test_a_ranking_pays_second_prices_between_reserve_and_bid():
    items = make_items(SMALL)
    candidates = items.alive(0, 0)[None, :5]
    pctr = np.array([[0.02, 0.05, 0.01, 0.03, 0.04]])
    bid, worth = items.bid[candidates], items.bid[candidates] * pctr
    shown = rank(candidates, np.log(worth), 3)
    best = np.argsort(-worth[0])
    assert shown.place[0].tolist() == best[:3].tolist() and (shown.propensity == 1).all()
    paid = charges(candidates, shown.place, pctr, items)[0]
    for slot, (own, following) in enumerate(pairwise(best[:4])):
        expected = np.clip(worth[0, following] / pctr[0, own], items.reserve[candidates[0, own]], bid[0, own])
        assert paid[slot] == pytest.approx(expected)
        assert expected * pctr[0, own] >= worth[0, following] * (1 - 1e-9)
    upside_down = charges(candidates, shown.place[:, ::-1], pctr, items)[0]
    assert upside_down[:2] == pytest.approx(bid[0, best[2:0:-1]])  # outscored by the ad below: the whole bid, no more


def test_bids_are_below_the_value_and_one_in_twenty_stays_out():
    items = make_items(Market(items=4000))
    assert (items.bid <= items.value).all() and np.median(items.bid / items.value) == pytest.approx(0.5, abs=0.1)
    out = items.bid < items.reserve
    assert out.mean() == pytest.approx(0.05, abs=0.01)
    category = items.category == 0
    assert np.log(items.bid[category]).std() == pytest.approx(0.5, abs=0.1)


def test_the_logs_hold_bids_and_what_clicks_cost(log):
    items = make_items(SMALL)
    item = log["sku"].str.slice(4).cast(pl.Int64).to_numpy()
    assert (items.bid[item] >= items.reserve[item]).all() and (log["bid"].to_numpy() == items.bid[item]).all()
    clicked = log.filter(pl.col("clicked") == 1)
    assert (log.filter(pl.col("clicked") == 0)["charge"] == 0).all()
    assert (clicked["charge"] <= clicked["bid"]).all() and (clicked["charge"] > 0).all()


def test_chance_is_the_same_whatever_is_shown_where():
    market = Market(cart_rate=0.5, order_rate=0.5)
    luck = draw_luck(50_000, 4, np.random.default_rng(0))
    place = np.tile(np.array([2, 0]), (50_000, 1))
    click = np.full(place.shape, 0.4)
    one, other = respond(luck, place, click, market), respond(luck, place[:, ::-1], click, market)
    assert (one.done == other.done[:, :, ::-1]).all() and (one.delay == other.delay[:, :, ::-1]).all()
    assert one.done.mean((1, 2)) == pytest.approx([0.4, 0.2, 0.1], abs=0.005)
    more = respond(luck, place, click + 0.1, market)
    assert (more.done >= one.done).all() and (one.done[1] <= one.done[0]).all()


def test_a_day_in_parts_is_a_day():
    market = Market(items=300, users=200, sessions_per_day=2 * PART_SESSIONS + 10)  # 8,202
    _, users = next(users_by_day(market, first=3))
    parts = list(draw_traffic(make_items(market), users, market, 3))
    at = np.concatenate([part.sessions.at for part in parts])
    request = np.concatenate([part.request for part in parts])
    assert [len(part.request) for part in parts] == [2734, 2734, 2734]
    assert (
        (np.diff(at) >= 0).all() and at[0] >= market.first_day + 3 * 86_400 and at[-1] < market.first_day + 4 * 86_400
    )
    assert (request == 3 * market.sessions_per_day + np.arange(market.sessions_per_day)).all()
    again, other = (next(draw_traffic(make_items(market), users, market, 3, replay)) for replay in (0, 1))
    assert (again.candidates == parts[0].candidates).all() and (other.candidates != parts[0].candidates).any()


def test_the_logging_policy_learns_at_night_and_takes_the_unknown_for_average():
    rates = ClickRates(3, SMALL)
    assert rates.rate() == pytest.approx([SMALL.ctr] * 3)
    rates.see(np.array([[0, 1]] * 50), np.array([[True, False]] * 50))
    assert rates.rate() == pytest.approx([SMALL.ctr] * 3)
    rates.night()
    assert rates.rate() == pytest.approx([0.75, 0.25, 0.5])


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


def test_looks_say_what_photos_differ_in():
    """Measured looks of drawn photos tell hue, light and pattern of the style that drew them."""
    items = make_items(Market(items=300, later_days=0))
    photos = [catalogue_photo(items.looks, i, 96, 0) / np.float32(255) for i in range(300)]
    vector = look_vectors(np.stack([measure(photo) for photo in photos]), items.category)
    assert vector.std(0) == pytest.approx(np.ones(STYLE_DIM)) and abs(vector.mean()) < 1e-6
    wide = np.column_stack([vector, np.ones(300)])
    explained = 1 - (items.vector - wide @ np.linalg.lstsq(wide, items.vector, rcond=None)[0]).var(0)
    assert (explained[:3] > 0.2).all() and explained[2] > 0.4  # hue's two dimensions, light
