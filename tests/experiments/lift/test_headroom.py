"""What a ranker is told of the truth, and how much the click log lets it weigh."""

import numpy as np
import pytest

from data.marketplace.traffic import draw_traffic, users_by_day
from data.marketplace.utility import content_term
from experiments.lift.arms import Ranked
from experiments.lift.headroom import Told, log_odds, logistic, read_looks
from features.ranks import process_group
from ranker.run_folder import RunFolder


def test_the_weights_are_those_of_the_likelihood():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2))
    p = 1 / (1 + np.exp(-(x @ [1.5, -0.5] - 1)))
    label = (rng.random(4000) < p).astype(float)
    found = logistic(x, label)
    assert found == pytest.approx([1.5, -0.5, -1], abs=0.15)
    wide = np.column_stack([x, np.ones(4000)])
    assert np.abs(wide.T @ (label - 1 / (1 + np.exp(-wide @ found)))).max() < 1e-6  # the slope of the likelihood is 0
    assert 1 / (1 + np.exp(-log_odds(np.array([0.0, 0.3, 1.0])))) == pytest.approx([0, 0.3, 1], abs=1e-8)


def test_looks_are_read_from_vectors_that_tell_them_and_from_no_others(world):
    true = world.items.vector
    mixed = true @ np.random.default_rng(0).normal(size=(true.shape[1], true.shape[1]))
    assert np.abs(read_looks(mixed, world) - true).mean() < 0.1 * np.abs(true).mean()
    noise = read_looks(np.random.default_rng(1).normal(size=true.shape), world)
    assert ((noise - true) ** 2).mean() > 0.9 * true.var()


def test_content_is_told_as_the_truth_has_it_and_a_taste_is_that_of_the_clicks(world, config):
    with process_group() as ranks:
        base = Ranked(world, RunFolder(config.arms["tiny"].run), ranks, world.market.days)
    told = Told(world, base, "content", world.items.vector)
    assert told.weights[1] > 0
    day = world.market.days
    users = next(users for number, users in users_by_day(world.market, day))
    traffic = next(draw_traffic(world.items, users, world.market, day, 1))
    rows = np.arange(5)
    item, session = traffic.candidates[rows], traffic.sessions
    ends = base.dataset.history_ends(world.user_rows[session.user[rows]], session.at[rows])
    given = told._told(users, traffic, rows, item, ends)[..., 0]
    true = content_term(world.items, users, session.user[rows], session.query.take(rows), item)
    assert given == pytest.approx(true * np.sqrt(world.items.vector.shape[1]))
    behaviors, user = base.dataset.behaviors(), int(np.argmax(np.diff(base.dataset.behaviors().offsets)))
    first, length = behaviors.offsets[user], 3
    now = behaviors.ts[first + length - 1]
    (taste,) = told._taste(np.array([user]), np.array([length]), np.array([now]))
    clicked = world.items.vector[behaviors.item[first : first + length]]
    weight = 0.5 ** ((now - behaviors.ts[first : first + length]) / (7 * 86_400))
    assert taste == pytest.approx(weight @ clicked / (weight.sum() + 8))
