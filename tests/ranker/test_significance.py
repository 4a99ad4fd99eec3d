"""Intervals and p-values against definitions, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from data.errors import InputError
from ranker.metrics import gauc
from ranker.significance import bootstrap_auc, bootstrap_gauc, delong, holm, paired_t


def rows(seed: int, n: int = 600, users: int = 30, gain: float = 0.0):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(np.int8)
    shared = rng.normal(size=n)
    a = np.round(label + shared + rng.normal(size=n), 2)
    b = np.round(label * (1 + gain) + shared + rng.normal(size=n), 2)
    return label, a, b, rng.integers(0, users, n)


def test_delong_equals_the_covariance_of_its_definition():
    label, a, b, _ = rows(0)
    x, y = [s[label == 1] for s in (a, b)], [s[label == 0] for s in (a, b)]
    kernel = [(p[:, None] > q) + 0.5 * (p[:, None] == q) for p, q in zip(x, y, strict=True)]
    s10 = np.cov([k.mean(1) for k in kernel])
    s01 = np.cov([k.mean(0) for k in kernel])
    s = s10 / len(x[0]) + s01 / len(y[0])
    error = np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    delta = roc_auc_score(label, b) - roc_auc_score(label, a)
    found = delong(label, a, b)
    assert found.delta == pytest.approx(delta, abs=1e-12)
    assert (found.high - found.low) / 2 == pytest.approx(1.959963985 * error, rel=1e-8)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(delta) / error), rel=1e-8)


def test_delong_of_a_model_with_itself_is_no_difference():
    label, a, _, _ = rows(1)
    assert delong(label, a, a.copy()) == delong(label, a, a)
    assert delong(label, a, a).p == 1.0


def test_delong_intervals_cover_the_truth():
    covered = 0
    for seed in range(300):
        label, a, b, _ = rows(seed, n=300)
        found = delong(label, a, b)
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_bootstrap_auc_equals_resampled_rows():
    label, a, b, user = rows(2, n=200, users=12)
    found = bootstrap_auc(label, a, b, user, draws=200, seed=5)
    rng = np.random.default_rng(5)
    deltas = []
    for _ in range(200):
        chosen = rng.integers(0, 12, 12)
        index = np.concatenate([np.flatnonzero(user == u) for u in chosen])
        deltas.append(roc_auc_score(label[index], b[index]) - roc_auc_score(label[index], a[index]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])), abs=1e-12)
    assert found.delta == pytest.approx(roc_auc_score(label, b) - roc_auc_score(label, a), abs=1e-12)


def test_bootstrap_gauc_is_centred_on_the_metric_and_sees_a_real_gain():
    label, a, b, user = rows(3, n=4000, users=80, gain=0.5)
    found = bootstrap_gauc(label, a, b, user, draws=1000)
    assert found.delta == pytest.approx(gauc(label, b, user).value - gauc(label, a, user).value, abs=1e-12)
    assert found.low < found.delta < found.high
    assert found.low > 0 and found.p < 0.01


def test_bootstrap_covers_when_rows_of_a_user_depend_on_each_other():
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        user = np.repeat(np.arange(40), 12)
        label = (rng.random(480) < 0.4).astype(np.int8)
        a, b = (label + rng.normal(size=480) + rng.normal(size=40)[user] for _ in range(2))
        found = bootstrap_auc(label, a, b, user, draws=200, seed=seed)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_bootstrap_repeats_with_its_seed():
    label, a, b, user = rows(4)
    assert bootstrap_gauc(label, a, b, user, 100, seed=1) == bootstrap_gauc(label, a, b, user, 100, seed=1)
    assert bootstrap_gauc(label, a, b, user, 100, seed=1) != bootstrap_gauc(label, a, b, user, 100, seed=2)


def test_paired_t_equals_scipy():
    a, b = np.array([0.78, 0.779, 0.781, 0.777]), np.array([0.783, 0.780, 0.786, 0.779])
    found, reference = paired_t(a, b), stats.ttest_rel(b, a)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
    interval = reference.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: delong(np.ones(3), np.arange(3.0), np.arange(3.0)), "DeLong needs both classes; all 3 labels are 1"),
        (lambda: delong(np.array([0, 1]), np.array([0.0, np.nan]), np.zeros(2)), "score of row 1 is nan"),
        (lambda: delong(np.array([0, 1]), np.zeros(2), np.array([np.inf, 0.0])), "score of row 0 is inf"),
        (lambda: delong(np.array([0, 1]), np.zeros(2), np.zeros(3)), r"got \[2, 3\] rows"),
        (lambda: paired_t(np.ones(1), np.ones(1)), "needs the same two or more seeds"),
        (lambda: bootstrap_gauc(np.array([0, 1]), np.zeros(2), np.zeros(2), np.array([1, 2])), "no user has them"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_holm_by_hand():
    # Holm 1979: sorted p times (tests left), never falling, at most 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0]) and holm([]) == []
