"""Intervals hold what they promise, on fresh traffic too; every estimate is the one of its definition."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments.lift.estimates import (
    aa_test,
    detectable,
    halves,
    headroom,
    leave_one_out,
    level,
    lift,
    mean_over,
    share_of_impressions,
    split_lift,
)
from experiments.lift.play import SUMS
from experiments.lift.replays import coverage


def users_of(count: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """(count, SUMS) sums of users with uneven numbers of impressions and click rates of their own."""
    sums = np.zeros((count, len(SUMS)))
    sums[:, 0] = 1 + rng.geometric(0.05, count)
    sums[:, 1] = rng.binomial(sums[:, 0].astype(int), np.clip(rate * rng.lognormal(0, 0.5, count), 0, 1))
    return sums


def uneven_users(rng: np.random.Generator, done: str, rate: float) -> np.ndarray:
    """(500, SUMS) users with lognormal activity: a tenth of them make two fifths of the impressions."""
    sums = np.zeros((500, len(SUMS)))
    sums[:, 0] = 6 * rng.multinomial(6000, (weight := rng.lognormal(0, 1, 500)) / weight.sum())
    sums[:, SUMS.index(done)] = rng.binomial(sums[:, 0].astype(int), np.clip(rate * rng.lognormal(0, 0.5, 500), 0, 1))
    return sums


def test_a_ratio_its_lift_and_the_headroom():
    arm, control, best = np.zeros((3, 3, len(SUMS)))
    arm[:, 0], control[:, 0], best[:, 0] = 10, 10, 10
    arm[:, 1], control[:, 1], best[:, 1] = (3, 1, 2), (1, 1, 1), (5, 3, 1)
    mine, theirs, most = (leave_one_out(sums, "ctr") for sums in (arm, control, best))
    assert mine == pytest.approx([0.2, 0.15, 0.25, 0.2])
    assert level(mine).value == pytest.approx(0.2) and lift(mine, theirs).value == pytest.approx(1.0)
    assert headroom(mine, theirs, most).value == pytest.approx(0.1 / 0.2)
    assert headroom(most, theirs, most).as_dict() == pytest.approx({"value": 1, "low": 1, "high": 1})
    # by hand: leaving out a user moves log(mine / theirs) by log(4/3), -log(5/4), 0; two thirds of the squares
    moved = np.sqrt(2 / 3) * np.log([4 / 3, 4 / 5])
    freedom = 2 * (moved**2).sum() ** 2 / (moved**4).sum()
    reach = stats.t.ppf(0.975, freedom) * np.sqrt((moved**2).sum())
    found = lift(mine, theirs)
    assert (found.low, found.high) == pytest.approx((2 * np.exp(-reach) - 1, 2 * np.exp(reach) - 1))
    wider = lift(mine, theirs, 0.99)
    assert wider.low < found.low and wider.high > found.high
    assert share_of_impressions(arm * 0.5, arm).as_dict() == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})


def test_there_is_no_interval_where_there_is_nothing_to_estimate():
    none, one = np.zeros((2, 3, len(SUMS)))
    one[:, 0], one[0, 1] = 10, 1
    nothing, some = leave_one_out(none, "ctr"), leave_one_out(one, "ctr")
    assert lift(some, nothing).value is None and level(nothing).value is None
    assert level(some).value == pytest.approx(1 / 30) and level(some).low is None  # without the only click: no rate
    clicks = np.array([[10.0, 0.0], [10.0, 0.0]])
    never = np.pad(clicks, ((0, 0), (0, len(SUMS) - 2)))
    assert lift(leave_one_out(never, "ctr"), some[:3]).as_dict() == {"value": -1, "low": None, "high": None}
    assert detectable(nothing, some) is None and not lift(nothing, some).covers_zero


def test_the_interval_of_a_lift_has_the_size_that_the_delta_method_gives():
    rng = np.random.default_rng(0)
    a, b = users_of(3000, 0.1, rng), users_of(3000, 0.1, rng)
    found = lift(leave_one_out(a, "ctr"), leave_one_out(b, "ctr"))

    def error(sums):
        rate = sums[:, 1].sum() / sums[:, 0].sum()
        return (sums[:, 1] - rate * sums[:, 0]) / sums[:, 1].sum()

    expected = np.sqrt(((error(a) - error(b)) ** 2).sum())
    assert (np.log1p(found.high) - np.log1p(found.low)) / 3.92 == pytest.approx(expected, rel=0.01)
    assert np.log1p(detectable(leave_one_out(a, "ctr"), leave_one_out(b, "ctr"))) == pytest.approx(
        (1.95996 + 0.84162) * expected, rel=0.01
    )


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
    found, effect = split_lift(arm, control, "ctr", 7)
    ours = 1.5 * control[second, 1].sum() / control[second, 0].sum()
    assert found.value == pytest.approx(ours / (control[~second, 1].sum() / control[~second, 0].sum()) - 1)
    assert found.low < found.value < found.high and effect > 0
    half = arm.copy()
    half[~second] = 0
    assert split_lift(half, control, "ctr", 7)[0] == found


def test_aa_splits_of_one_traffic_cover_zero_and_tell_what_a_live_test_detects():
    sums = uneven_users(np.random.default_rng(2), "clicks", 0.07)
    found = aa_test(sums, "ctr", 200, 0)
    assert 0.92 <= found["covers_zero"] <= 0.98
    values = [np.log1p(split_lift(sums, sums, "ctr", 1 + salt)[0].value) for salt in range(200)]
    assert np.log1p(found["minimum_detectable_effect"]) == pytest.approx(2.8 * np.std(values), rel=0.15)


@pytest.mark.parametrize(("metric", "done", "rate"), [("ctr", "clicks", 0.07), ("orders", "orders", 0.005)])
def test_intervals_of_fresh_users_cover_the_truth(metric, done, rate):
    """Both halves drawn anew each time from the same population, so the true lift is 0."""
    rng, covered = np.random.default_rng(3), []
    for _ in range(400):
        sums = uneven_users(rng, done, rate)
        covered.append(split_lift(sums, sums, metric, 1)[0].covers_zero)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_aa_in_fresh_worlds_too(world):
    """200 replays, each with its own users, items, sessions, chance and split."""
    small = replace(world, market=world.market.model_copy(update={"sessions_per_day": 1000}))
    found = coverage(small, 500, 200)
    assert list(found) == ["ctr", "rpm", "orders"]
    assert all(0.92 <= share <= 0.98 for share in found.values())


def test_a_weighted_mean_over_users_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 50, 300).astype(float)
    mean = rng.normal(0.2, 1, 300)
    found = mean_over(weight * mean, weight)
    assert found.value == pytest.approx(np.average(mean, weights=weight))
    spread = np.sqrt((weight**2 * (mean - found.value) ** 2).sum()) / weight.sum()  # linearised
    assert found.high - found.value == pytest.approx(1.98 * spread, rel=0.05)
    assert mean_over(np.zeros(3), np.zeros(3)).value is None
