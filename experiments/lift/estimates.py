"""From sums by user to lifts with intervals: paired, as a live test would read them, by day, A/A, detectable effects.

Every metric is a ratio of two sums over users (and days), and rows of one user are not independent. An interval
therefore comes from leaving out one user after the other (jackknife), on the logarithm of the ratio, with Student's t:
a few busy users make most of the variance, which drawing 250 users with replacement shows too seldom.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from experiments.lift.play import SUMS

LEVEL = 0.95
POWER = 0.8
# name -> (numerator, denominator, factor, what it is)
METRICS = {
    "ctr": ("clicks", "impressions", 1.0, "clicks an impression"),
    "true_ctr": ("expected_clicks", "impressions", 1.0, "mean true click probability of what was shown"),
    "rpm": ("revenue", "impressions", 1000.0, "paid for clicks, a thousand impressions"),
    "orders": ("orders", "impressions", 1000.0, "orders, a thousand impressions"),
    "advertiser_value": ("value", "impressions", 1000.0, "worth of the clicks to sellers, a thousand impressions"),
}


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval (95 % unless said otherwise); None where there is nothing to estimate."""

    value: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)

    @property
    def covers_zero(self) -> bool:
        """Whether 0 lies inside."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


def leave_one_out(sums: np.ndarray, metric: str) -> np.ndarray:
    """(users + 1,) a metric of all users (row 0), then without each of them; sums: (users, SUMS). NaN where there is
    nothing to divide by."""
    numerator, denominator, factor, _ = METRICS[metric]
    top, bottom = (_without_each(sums[:, SUMS.index(name)]) for name in (numerator, denominator))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, factor * top / bottom, np.nan)


def share_of_impressions(part: np.ndarray, everything: np.ndarray) -> Interval:
    """Share of all impressions that fall on a part; both (users, SUMS)."""
    top, bottom = (_without_each(sums[:, SUMS.index("impressions")]) for sums in (part, everything))
    return level(top / bottom)


def level(metric: np.ndarray) -> Interval:
    """A metric with its interval, from `leave_one_out`."""
    return _interval(_log(metric), LEVEL, np.exp)


def lift(arm: np.ndarray, control: np.ndarray, confidence: float = LEVEL) -> Interval:
    """arm / control - 1 of the same users, both from `leave_one_out`; None where the control is 0."""
    return _interval(_relative(arm, control), confidence, np.expm1)


def headroom(arm: np.ndarray, control: np.ndarray, oracle: np.ndarray) -> Interval:
    """Share of what the control leaves to the oracle that an arm captures: (arm - control) / (oracle - control)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(np.where(oracle != control, (arm - control) / (oracle - control), np.nan), LEVEL, float)


def mean_over(total: np.ndarray, weight: np.ndarray) -> Interval:
    """A weighted mean from each user's weighted sum and weight, (users,) each."""
    top, bottom = np.append(0.0, -total) + total.sum(), _without_each(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(np.where(bottom > 0, top / bottom, np.nan), LEVEL, float)


def detectable(arm: np.ndarray, control: np.ndarray) -> float | None:
    """Minimum detectable effect of the paired comparison that `lift` makes."""
    moved = _influence(_relative(arm, control))
    return None if moved is None else _effect(moved)


def halves(users: int, salt: int) -> np.ndarray:
    """(users,) bool: whether a user falls into the second half, by sha256 of salt and user as A/B platforms do it."""
    digest = (hashlib.sha256(f"{salt}/{user}".encode()).digest()[0] for user in range(users))
    return np.fromiter(digest, np.uint8, users) >= 128


def split_lift(arm: np.ndarray, control: np.ndarray, metric: str, salt: int) -> tuple[Interval, float | None]:
    """The lift that a live test would read, half of the users in each arm, and its minimum detectable effect.

    arm, control: (users, SUMS), what every user would do in either arm; only one of the two is looked at.
    """
    second = halves(len(arm), salt)
    mine, theirs = (_log(leave_one_out(sums, metric)) for sums in (arm[second], control[~second]))
    parts = [_influence(mine), _influence(theirs)]
    moved = None if parts[0] is None or parts[1] is None else np.concatenate([parts[0], -parts[1]])
    found = _around(mine[0] - theirs[0], moved, LEVEL, np.expm1)
    return found, None if moved is None else _effect(moved)


def aa_test(sums: np.ndarray, metric: str, replays: int, seed: int) -> dict[str, float | None]:
    """An arm against itself, users halved by `replays` salts: how often the interval covers zero, and what a live
    test of this traffic could have detected (mean over the salts)."""
    found = [split_lift(sums, sums, metric, seed + 1 + replay) for replay in range(replays)]
    effects = [effect for _, effect in found if effect is not None]
    return {
        "replays": replays,
        "covers_zero": float(np.mean([one.covers_zero for one, _ in found])),
        "minimum_detectable_effect": float(np.mean(effects)) if effects else None,
    }


def _without_each(values: np.ndarray) -> np.ndarray:
    """(n + 1,) the sum of values (n,), then the sum without each; what is left of nothing is 0 exactly."""
    total = values.sum()
    rest = total - values
    return np.append(total, np.where(rest > 1e-12 * total, rest, 0.0))


def _log(metric: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(metric)


def _relative(arm: np.ndarray, control: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return _log(arm) - _log(control)


def _influence(replicates: np.ndarray) -> np.ndarray | None:
    """(n,) how far each user moves the estimate, so that the squares add up to its variance; None where an estimate
    without one user does not exist."""
    n = len(replicates) - 1
    if n < 2 or not np.isfinite(replicates).all():
        return None
    return np.sqrt((n - 1) / n) * (replicates[0] - replicates[1:])


def _interval(replicates: np.ndarray, confidence: float, back: Callable[[float], float]) -> Interval:
    return _around(replicates[0], _influence(replicates), confidence, back)


def _around(value: float, moved: np.ndarray | None, confidence: float, back: Callable[[float], float]) -> Interval:
    """Student's interval. The degrees of freedom are those of a variance that is a sum of unequal squares
    (Satterthwaite): 2 (sum of squares)^2 / sum of fourth powers."""
    if np.isnan(value) or value == np.inf:
        return Interval(None, None, None)
    if moved is None:
        return Interval(float(back(value)), None, None)
    variance, fourth = float((moved**2).sum()), float((moved**4).sum())
    reach = 0.0
    if fourth > 0:
        freedom = max(1.0, 2 * variance**2 / fourth)
        reach = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * variance**0.5
    return Interval(float(back(value)), float(back(value - reach)), float(back(value + reach)))


def _effect(moved: np.ndarray) -> float:
    """Minimum detectable effect, (z(.975) + z(.8)) standard errors."""
    reach = stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(POWER)
    return float(np.expm1(reach * np.sqrt((moved**2).sum())))
