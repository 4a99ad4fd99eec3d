"""Intervals hold what they promise, on fresh traffic too; every estimate is the one of its definition."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.lift.arms import Random
from experiments.lift.estimates import (
    aa_test,
    detectable,
    halves,
    headroom,
    interval,
    lift,
    ratios,
    split_lift,
    user_weights,
)
from experiments.lift.play import SUMS, play


def users_of(count: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """(count, SUMS) sums of users with uneven numbers of impressions and click rates of their own."""
    sums = np.zeros((count, len(SUMS)))
    sums[:, 0] = 1 + rng.geometric(0.05, count)
    sums[:, 1] = rng.binomial(sums[:, 0].astype(int), np.clip(rate * rng.lognormal(0, 0.5, count), 0, 1))
    return sums


def test_a_ratio_its_lift_and_the_headroom():
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    arm, control, best = np.zeros((3, 2, len(SUMS)))
    arm[:, 0], control[:, 0], best[:, 0] = 10, 10, 10
    arm[:, 1], control[:, 1], best[:, 1] = (3, 1), (1, 1), (5, 3)
    found = [ratios(weights, sums, "ctr") for sums in (arm, control, best)]
    assert found[0][:2].tolist() == [0.2, 0.3] and np.isnan(found[0][2])
    assert lift(found[0], found[1])[:2] == pytest.approx([1.0, 2.0])
    assert headroom(*found)[:2] == pytest.approx([0.1 / 0.3, 0.2 / 0.4])
    assert ratios(weights, arm, "rpm")[0] == 0
    assert interval(np.array([np.nan, 1.0])).value is None
    assert interval(np.array([0.5, np.nan])).low is None
    five = interval(np.array([0.0, *np.linspace(-1, 1, 201)]))
    assert (five.low, five.high) == pytest.approx((-0.95, 0.95)) and five.covers_zero


def test_weights_draw_every_user_as_often_as_the_others():
    weights = user_weights(50, 4000, 3)
    assert (weights[0] == 1).all() and (weights.sum(1) == 50).all()
    assert weights[1:].mean(0) == pytest.approx(np.ones(50), abs=0.08)
    assert (user_weights(50, 10, 3) == user_weights(50, 10, 3)).all()


def test_the_interval_of_a_lift_has_the_size_that_the_delta_method_gives():
    rng = np.random.default_rng(0)
    a, b = users_of(3000, 0.1, rng), users_of(3000, 0.1, rng)
    weights = user_weights(3000, 2000, 0)
    relative = lift(ratios(weights, a, "ctr"), ratios(weights, b, "ctr"))

    def error(sums):
        rate = sums[:, 1].sum() / sums[:, 0].sum()
        return np.sqrt(((sums[:, 1] - rate * sums[:, 0]) ** 2).sum()) / sums[:, 1].sum()

    expected = np.hypot(error(a), error(b)) * (1 + relative[0])
    assert relative[1:].std() == pytest.approx(expected, rel=0.06)
    assert detectable(relative) == pytest.approx((1.95996 + 0.84162) * expected, rel=0.06)


def test_a_split_by_hash_is_even_and_changes_with_the_salt():
    one, other = halves(4000, 1), halves(4000, 2)
    assert one.mean() == pytest.approx(0.5, abs=0.03) and (one == other).mean() == pytest.approx(0.5, abs=0.03)
    assert (halves(4000, 1) == one).all()


def test_a_live_test_reads_each_user_in_one_arm_only():
    rng = np.random.default_rng(1)
    control = users_of(2000, 0.1, rng)
    arm = control.copy()
    arm[:, 1] *= 1.5
    second = halves(2000, 7)
    found, deviation = split_lift(arm, control, "ctr", 7, 300, 0)
    ours = 1.5 * control[second, 1].sum() / control[second, 0].sum()
    assert found.value == pytest.approx(ours / (control[~second, 1].sum() / control[~second, 0].sum()) - 1)
    assert found.low < found.value < found.high and deviation > 0
    half = arm.copy()
    half[~second] = 0
    assert split_lift(half, control, "ctr", 7, 300, 0)[0] == found


def test_aa_intervals_cover_zero_as_often_as_they_say():
    sums = users_of(800, 0.08, np.random.default_rng(2))
    found = aa_test(sums, "ctr", 200, 200, 0)
    assert 0.92 <= found["covers_zero"] <= 0.98
    deviation = np.std([split_lift(sums, sums, "ctr", 1 + s, 2, 0)[0].value for s in range(200)])
    assert found["minimum_detectable_effect"] == pytest.approx(2.8 * deviation, rel=0.15)


def test_aa_on_fresh_traffic_too(world, config):
    """200 replays, each with its own sessions, chance and split: users of the same arm in both halves."""
    market = world.market.model_copy(update={"users": 1000, "sessions_per_day": 1200})
    fresh = replace(world, market=market, slices={"all": world.slices["all"]})
    covered = []
    for replay in range(200):
        test = config.model_copy(update={"replay": 10 + replay, "days": 1})
        sums = play(fresh, test, Random(fresh), "random").sums[0].sum(1)
        covered.append(split_lift(sums, sums, "ctr", replay, 200, replay)[0].covers_zero)
    assert 0.92 <= np.mean(covered) <= 0.98
