"""The simulated market's laws: births, tastes, retrieval, auction, examination, clicks and the logging policy."""

from itertools import pairwise

import numpy as np
import pytest

from data.marketplace.catalogue import make_items
from data.marketplace.config import Market
from data.marketplace.exposure import chances, charges, draw, rank, retrieve
from data.marketplace.photographed import look_vectors, measure
from data.marketplace.render import catalogue_photo
from data.marketplace.response import draw_luck, respond
from data.marketplace.sessions import draw_sessions
from data.marketplace.simulate import ClickRates
from data.marketplace.style import STYLE_DIM, colour_vector, draw_styles
from data.marketplace.traffic import PART_SESSIONS, draw_traffic, users_by_day
from data.marketplace.users import make_users
from data.marketplace.utility import content_term, true_ctr, utility

SMALL = Market(days=5, later_days=2, items=300, users=200, sessions_per_day=400, image_size=32)


def day_of(market: Market, sessions: int = 4000):
    """A world's first day: items, users, sessions, and random items for them (sessions, 5)."""
    market = market.model_copy(update={"sessions_per_day": sessions})
    items, users, rng = make_items(market), make_users(market), np.random.default_rng(0)
    return items, users, draw_sessions(items, users, market, 0, rng), rng.integers(0, len(items), (sessions, 5))


def test_products_go_live_at_one_rate_before_and_after_the_logs():
    market = Market(items=6000, days=10, later_days=5)
    items = make_items(market)
    born = np.bincount(items.born[np.unique(items.spu, return_index=True)[1]], minlength=15)
    assert len(born) == 15 and born[10:].mean() == pytest.approx(born[1:10].mean(), rel=0.15)
    assert (items.born < 10).sum() == 6000 and (items.born[6000:] >= 10).all()
    assert len(make_items(Market(items=6000, days=10, later_days=0))) == 6000


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


def test_looks_say_what_photos_differ_in():
    """Measured looks of drawn photos tell hue, light and pattern of the style that drew them."""
    items = make_items(Market(items=300, later_days=0))
    photos = [catalogue_photo(items.looks, i, 96, 0) / np.float32(255) for i in range(300)]
    vector = look_vectors(np.stack([measure(photo) for photo in photos]), items.category)
    assert vector.std(0) == pytest.approx(np.ones(STYLE_DIM)) and abs(vector.mean()) < 1e-6
    wide = np.column_stack([vector, np.ones(300)])
    explained = 1 - (items.vector - wide @ np.linalg.lstsq(wide, items.vector, rcond=None)[0]).var(0)
    assert (explained[:3] > 0.2).all() and explained[2] > 0.4  # hue's two dimensions, light
