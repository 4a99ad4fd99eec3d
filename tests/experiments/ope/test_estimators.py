"""The estimators on problems whose answer is known."""

import numpy as np
import pytest

from experiments.ope.estimators import ESTIMATORS, Logged, estimate

LOGGING = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.2, 0.3, 0.5])
RATE = np.array([0.1, 0.3, 0.6])


def bandit(rows: int, rng: np.random.Generator, model: np.ndarray) -> Logged:
    """A log over three actions; `model` (3,) is what the reward model believes."""
    action = rng.choice(3, rows, p=LOGGING)
    ones = np.ones(rows)
    return Logged(
        reward=(rng.random(rows) < RATE[action]).astype(float),
        ratio=(TARGET / LOGGING)[action],
        before=ones,
        model=model[action],
        value=ones * (TARGET @ model),
        slot=np.zeros(rows, int),
        cluster=np.arange(rows),
    )


def slates(sessions: int, rng: np.random.Generator) -> tuple[Logged, float]:
    """Two slots without repeats; the lower one is clicked only where the upper one is action 2."""
    first = rng.choice(3, sessions, p=LOGGING)
    below = np.where(np.arange(3) == first[:, None], 0, LOGGING)
    below /= below.sum(1, keepdims=True)
    second = (np.cumsum(below, 1) > rng.random((sessions, 1))).argmax(1)
    wanted = np.where(np.arange(3) == first[:, None], 0, TARGET)
    wanted /= wanted.sum(1, keepdims=True)
    row = np.arange(sessions)
    one, two = (TARGET / LOGGING)[first], wanted[row, second] / below[row, second]
    reward = np.column_stack([rng.random(sessions) < RATE[first], (first == 2) & (rng.random(sessions) < RATE[second])])
    model = np.column_stack([RATE[first], np.full(sessions, 0.1)])
    value = np.column_stack([np.full(sessions, TARGET @ RATE), np.full(sessions, 0.1)])
    after_two = TARGET[:2] / TARGET[:2].sum()
    truth = (TARGET @ RATE + TARGET[2] * after_two @ RATE[:2]) / 2
    logged = Logged(
        reward=reward.astype(float).ravel(),
        ratio=np.column_stack([one, one * two]).ravel(),
        before=np.column_stack([np.ones(sessions), one]).ravel(),
        model=model.ravel(),
        value=value.ravel(),
        slot=np.tile([0, 1], sessions),
        cluster=np.repeat(row, 2),
    )
    return logged, float(truth)


def test_every_estimator_is_right_on_average_and_its_interval_covers_as_it_says():
    rng, truth = np.random.default_rng(0), float(TARGET @ RATE)
    wrong = np.array([0.3, 0.2, 0.4])
    found = [estimate(bandit(1500, rng, wrong), np.inf, 200, seed) for seed in range(200)]
    for name in ESTIMATORS:
        values = np.array([one.draws[name][0] for one in found])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / np.sqrt(200))
        covered = [one.value(name).low <= truth <= one.value(name).high for one in found]
        assert np.mean(covered) >= 0.9
        assert found[0].draws[name][1:].std() == pytest.approx(values.std(), rel=0.2)


def test_estimates_are_those_of_the_formulas():
    logged = bandit(500, np.random.default_rng(1), RATE)
    w, r = logged.ratio, logged.reward
    found = estimate(logged, 2.0, 100, 0)
    residual = w * (r - logged.model)
    expected = {
        "ips": (w * r).mean(),
        "snips": (w * r).sum() / w.sum(),
        "dr": (logged.value + residual).mean(),
        "switch_dr": (logged.value + np.where(w <= 2, residual, 0)).mean(),
    }
    assert {name: found.draws[name][0] for name in ESTIMATORS} == pytest.approx(expected)
    assert found.logged[0] == pytest.approx(r.mean()) and found.largest == w.max()
    assert found.effective.tolist() == pytest.approx([w.sum() ** 2 / (w**2).sum()])
    assert found.lift("ips").value == pytest.approx(expected["ips"] / r.mean() - 1)
    assert estimate(logged, 1e9, 100, 0).draws["switch_dr"] == pytest.approx(found.draws["dr"])
    assert estimate(logged, 1e-9, 100, 0).draws["switch_dr"] == pytest.approx(np.full(101, TARGET @ RATE))


def test_a_good_model_makes_the_doubly_robust_interval_shorter_and_snips_bears_a_shift():
    rng = np.random.default_rng(2)
    logged = bandit(4000, rng, RATE)
    found = estimate(logged, np.inf, 300, 0)
    assert found.draws["dr"][1:].std() < 0.8 * found.draws["ips"][1:].std()
    shifted = Logged(**{**vars(logged), "reward": logged.reward + 5})
    again = estimate(shifted, np.inf, 300, 0)
    assert again.draws["snips"] == pytest.approx(found.draws["snips"] + 5)
    assert abs(again.draws["ips"][0] - found.draws["ips"][0] - 5) > 1e-3


def test_slates_need_no_assumption_of_how_slots_act_on_each_other():
    rng, errors, truth = np.random.default_rng(3), [], 0.0
    for seed in range(150):
        logged, truth = slates(600, rng)
        found = estimate(logged, np.inf, 100, seed)
        errors.append([found.draws[name][0] - truth for name in ESTIMATORS])
    mean, deviation = np.mean(errors, 0), np.std(errors, 0)
    assert (np.abs(mean[[0, 2, 3]]) < 4 * deviation[[0, 2, 3]] / np.sqrt(150)).all()
    assert abs(mean[1]) < 0.02 * truth and found.effective[1] < found.effective[0] and len(found.effective) == 2


def test_numbers_that_are_not_finite_are_refused():
    logged = bandit(10, np.random.default_rng(0), RATE)
    broken = logged.ratio.copy()
    broken[3] = np.inf
    with pytest.raises(ValueError, match="ratio of decision 3 is not finite"):
        Logged(**{**vars(logged), "ratio": broken})
