"""From sums by user to lifts with intervals: paired, as a live test would read them, by day, A/A, detectable effects.

Every metric is a ratio of two sums over users (and days), so an interval comes from drawing users with replacement:
rows of one user are not independent.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from experiments.lift.play import SUMS

LEVEL = 0.95
POWER = 0.8
BOOTSTRAP = 0xB007
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
    """An estimate with its 95 % interval (percentiles of the bootstrap); None where there is nothing to estimate."""

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


def user_weights(users: int, draws: int, seed: int) -> np.ndarray:
    """(draws + 1, users) how often each user counts: once each (row 0), then as drawn with replacement."""
    rng = np.random.default_rng([seed, BOOTSTRAP])  # never the stream that made the data
    drawn = rng.multinomial(users, np.full(users, 1 / users), draws)
    return np.concatenate([np.ones((1, users)), drawn]).astype(np.float32)


def ratios(weights: np.ndarray, sums: np.ndarray, metric: str) -> np.ndarray:
    """(draws + 1,) a metric under every weighting; sums: (users, SUMS). NaN where the denominator is 0."""
    numerator, denominator, factor, _ = METRICS[metric]
    top, bottom = (weights @ sums[:, SUMS.index(name)] for name in (numerator, denominator))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, factor * top / bottom, np.nan)


def interval(draws: np.ndarray, level: float = LEVEL) -> Interval:
    """Row 0 as the estimate, percentiles of the rest as the interval; None if the estimate is not finite."""
    if not np.isfinite(draws[0]):
        return Interval(None, None, None)
    rest = draws[1:][np.isfinite(draws[1:])]
    if not len(rest):
        return Interval(float(draws[0]), None, None)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(rest, [tail, 100 - tail])
    return Interval(float(draws[0]), float(low), float(high))


def lift(arm: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Relative differences arm / control - 1 of matching draws; NaN where the control is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(control > 0, arm / control - 1, np.nan)


def headroom(arm: np.ndarray, control: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Share of what the control leaves to the oracle that an arm captures: (arm - control) / (oracle - control)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(oracle != control, (arm - control) / (oracle - control), np.nan)


def halves(users: int, salt: int) -> np.ndarray:
    """(users,) bool: whether a user falls into the second half, by sha256 of salt and user as A/B platforms do it."""
    digest = (hashlib.sha256(f"{salt}/{user}".encode()).digest()[0] for user in range(users))
    return np.fromiter(digest, np.uint8, users) >= 128


def split_lift(
    arm: np.ndarray, control: np.ndarray, metric: str, salt: int, draws: int, seed: int
) -> tuple[Interval, float]:
    """The lift that a live test would read, half of the users in each arm; and the deviation of its draws.

    arm, control: (users, SUMS), what every user would do in either arm; only one of the two is looked at.
    """
    second = halves(len(arm), salt)
    found = []
    for number, sums in enumerate((arm[second], control[~second])):
        weights = user_weights(len(sums), draws, 2 * seed + number)
        found.append(ratios(weights, sums, metric))
    relative = lift(*found)
    return interval(relative), float(np.nanstd(relative[1:]))


def aa_test(sums: np.ndarray, metric: str, replays: int, draws: int, seed: int) -> dict[str, float]:
    """An arm against itself, users halved by `replays` salts: how often the interval covers zero, and what a live
    test of this traffic could have detected.

    The minimum detectable effect is (z(.975) + z(.8)) times the mean deviation of the lift.
    """
    found = [split_lift(sums, sums, metric, seed + 1 + replay, draws, replay) for replay in range(replays)]
    covered = np.mean([one.covers_zero for one, _ in found])
    reach = stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(POWER)
    return {
        "replays": replays,
        "covers_zero": float(covered),
        "minimum_detectable_effect": float(reach * np.mean([deviation for _, deviation in found])),
    }


def detectable(relative: np.ndarray) -> float:
    """Minimum detectable effect of a comparison whose bootstrapped lifts are `relative` (row 0: the estimate)."""
    reach = stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(POWER)
    return float(reach * np.nanstd(relative[1:]))
