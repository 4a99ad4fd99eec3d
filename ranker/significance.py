"""Is ranker B better than ranker A? Paired intervals and p-values; a difference is always B minus A.

AUC: DeLong et al. 1988 in the O(n log n) form of Sun & Xu 2014. GAUC and slices: bootstrap over users, because rows
of a user are not independent. Over seeds: paired t-test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from data.errors import InputError
from ranker.metrics import check, group_aucs

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """B minus A. low, high: 95 % interval. p: two-sided, of "no difference". method: how they were found."""

    delta: float
    low: float
    high: float
    p: float
    method: str

    def as_dict(self) -> dict[str, float | str]:
        """For JSON."""
        return asdict(self)


def delong(label: np.ndarray, score_a: np.ndarray, score_b: np.ndarray) -> Difference:
    """AUC difference of two score columns (n,) on the same rows; rows are taken as independent.

    Raises InputError for bad scores or one class only.
    """
    check(label, score_a, score_b)
    check(label, score_b)
    positive = label == 1
    if positive.all() or not positive.any():
        raise InputError(f"DeLong needs both classes; all {len(label)} labels are {int(label[0])}")
    parts = [_placements(score, positive) for score in (score_a, score_b)]
    delta = float(parts[1][0].mean() - parts[0][0].mean())
    variance = sum(_variance_of_mean(b - a) for a, b in zip(*parts, strict=True))
    return _normal(delta, float(np.sqrt(variance)), "DeLong")


def _placements(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components: per positive the share of negatives below it, per negative of positives above it."""
    x, y = score[positive], score[~positive]
    ranks = stats.rankdata(np.concatenate([x, y]))
    v10 = (ranks[: len(x)] - stats.rankdata(x)) / len(y)
    v01 = 1 - (ranks[len(x) :] - stats.rankdata(y)) / len(x)
    return v10, v01


def _variance_of_mean(values: np.ndarray) -> float:
    return float(np.var(values, ddof=1) / len(values)) if len(values) > 1 else 0.0


def _normal(delta: float, error: float, method: str) -> Difference:
    if error == 0:
        return Difference(delta, delta, delta, 1.0 if delta == 0 else 0.0, method)
    reach = float(stats.norm.ppf(0.5 + LEVEL / 2)) * error
    return Difference(delta, delta - reach, delta + reach, float(2 * stats.norm.sf(abs(delta) / error)), method)


@dataclass(frozen=True)
class Resampled:
    """A metric of one score column, on the rows as they are and on every draw of users (draws,); NaN: undefined."""

    value: float
    draws: np.ndarray


def bootstrap_gauc(
    label: np.ndarray, score_a: np.ndarray, score_b: np.ndarray, user: np.ndarray, draws: int = 1000, seed: int = 0
) -> Difference:
    """GAUC difference; users are drawn with replacement, each with its rows and its AUC.

    Raises InputError if no user has both classes.
    """
    a, b = (resampled_gauc(label, score, user, draws, seed) for score in (score_a, score_b))
    return bootstrap(a, b)


def bootstrap_auc(
    label: np.ndarray, score_a: np.ndarray, score_b: np.ndarray, user: np.ndarray, draws: int = 1000, seed: int = 0
) -> Difference:
    """AUC difference; users are drawn with replacement.

    Raises InputError for bad scores or one class only.
    """
    a, b = (resampled_auc(label, score, user, draws, seed) for score in (score_a, score_b))
    return bootstrap(a, b)


def bootstrap(a: Resampled, b: Resampled) -> Difference:
    """b minus a, both of the same rows and draws."""
    deltas = b.draws - a.draws
    return _percentiles(b.value - a.value, deltas[np.isfinite(deltas)])


def resampled_gauc(
    label: np.ndarray, score: np.ndarray, user: np.ndarray, draws: int = 1000, seed: int = 0
) -> Resampled:
    """GAUC of a score column. Raises InputError if no user has both classes."""
    _, rows, auc = group_aucs(label, score, user)
    both = np.isfinite(auc)
    if not both.any():
        raise InputError("GAUC needs a user with both classes; no user has them")
    rows, auc = rows[both].astype(np.float64), auc[both]
    found = [float((w * rows) @ auc / (w @ rows)) for w in _user_weights(len(rows), draws, seed)]
    return Resampled(float(rows @ auc / rows.sum()), np.array(found))


def resampled_auc(
    label: np.ndarray, score: np.ndarray, user: np.ndarray, draws: int = 1000, seed: int = 0
) -> Resampled:
    """AUC of a score column, which is sorted once; a draw costs O(n).

    Raises InputError for bad scores or one class only.
    """
    check(label, score, user)
    if label.all() or not label.any():
        raise InputError(f"AUC needs both classes; all {len(label)} labels are {int(label[0])}")
    _, index = np.unique(user, return_inverse=True)
    auc, users = _WeightedAuc(label, score, index), int(index.max()) + 1
    return Resampled(auc(np.ones(users)), np.array([auc(w) for w in _user_weights(users, draws, seed)]))


class _WeightedAuc:
    """AUC of rows that count as often as their user was drawn."""

    def __init__(self, label: np.ndarray, score: np.ndarray, user: np.ndarray) -> None:
        order = np.argsort(score, kind="stable")
        self.user, self.label, sorted_score = user[order], label[order].astype(np.float64), score[order]
        self.ties = np.flatnonzero(np.append(True, sorted_score[1:] != sorted_score[:-1]))

    def __call__(self, weights: np.ndarray) -> float:
        w = weights[self.user]
        pos = w * self.label
        total = np.add.reduceat(w, self.ties)
        pos = np.add.reduceat(pos, self.ties)
        neg = total - pos
        pairs = pos.sum() * neg.sum()
        return float(pos @ (np.cumsum(neg) - neg / 2) / pairs) if pairs else float("nan")


def _user_weights(users: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user was drawn, one array (users,) a draw."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, users, users), minlength=users).astype(np.float64)


def _percentiles(delta: float, deltas: np.ndarray) -> Difference:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(deltas, [tail, 100 - tail])
    below, above = np.count_nonzero(deltas <= 0), np.count_nonzero(deltas >= 0)
    p = min(1.0, 2 * (min(below, above) + 1) / (len(deltas) + 1))
    return Difference(delta, float(low), float(high), float(p), f"bootstrap over users, {len(deltas)} draws")


def paired_t(a: np.ndarray, b: np.ndarray) -> Difference:
    """Difference of a metric over the same seeds (k,) of two recipes.

    Raises InputError for fewer than two seeds.
    """
    if len(a) != len(b) or len(a) < 2:
        raise InputError(f"a paired t-test needs the same two or more seeds of both, got {len(a)} and {len(b)}")
    gain = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    delta, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
    method = f"paired t-test over {len(gain)} seeds"
    if error == 0:
        return Difference(delta, delta, delta, 1.0 if delta == 0 else 0.0, method)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, len(gain) - 1)) * error
    p = float(2 * stats.t.sf(abs(delta) / error, len(gain) - 1))
    return Difference(delta, delta - reach, delta + reach, p, method)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of a family of tests adjusted by Holm's step-down method: the chance of one false find in the family."""
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted.tolist()
