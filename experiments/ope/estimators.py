"""The value of a policy from the log of another: IPS, SNIPS, doubly robust and switch-DR, with intervals.

A row is one logged decision. In a slate (several slots filled one after another) the weight of a slot is the product of
the ratios down to it, so nothing is assumed of how slots act on each other (McInerney et al. 2020, arXiv 2007.12986);
the doubly robust terms are those of Kiyohara et al. 2022 (arXiv 2202.01562) with every slot's reward apart.
"""

from dataclasses import dataclass

import numpy as np

from experiments.lift.estimates import Interval
from experiments.ope.bootstrap import cluster_weights, interval

ESTIMATORS = ("ips", "snips", "dr", "switch_dr")


@dataclass(frozen=True)
class Logged:
    """n logged decisions, as the estimators need them; arrays are (n,).

    Attributes:
        reward: what followed. ratio: probability of the logged decision under the target policy over that under the
            logging policy, for slates multiplied down to this slot. before: the same of the slots above (1 for single
            decisions). model: reward that a model expects of the logged decision. value: mean of what the model
            expects under the target policy (given the slots above). slot: decisions of a slate are numbered from 0.
        cluster: decisions that are not independent of each other share a number (a user's); from 0.
    """

    reward: np.ndarray
    ratio: np.ndarray
    before: np.ndarray
    model: np.ndarray
    value: np.ndarray
    slot: np.ndarray
    cluster: np.ndarray

    def __post_init__(self) -> None:
        for name, array in vars(self).items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of decision {np.flatnonzero(~np.isfinite(array))[0]} is not finite")


@dataclass(frozen=True)
class Estimates:
    """Draws (draws + 1,) of every estimator (row 0: the estimate) and of the logging policy's own value.

    effective: effective sample size (sum w)^2 / sum w^2 by slot. largest: the largest ratio. rows: by slot.
    """

    draws: dict[str, np.ndarray]
    logged: np.ndarray
    effective: np.ndarray
    rows: np.ndarray
    largest: float

    def value(self, name: str) -> Interval:
        """The target policy's mean reward a decision."""
        return interval(self.draws[name])

    def lift(self, name: str) -> Interval:
        """The target policy's value relative to the logging policy's."""
        return interval(self.draws[name] / self.logged - 1)


def estimate(logged: Logged, switch: float, draws: int, seed: int) -> Estimates:
    """All estimators; intervals by drawing clusters with replacement.

    ips: mean of w r. snips: sum of w r over sum of w, by slot. dr: mean of w' v + w (r - q), with w' the ratio of the
    slots above, v the model's value and q its expectation. switch_dr: the same, but the correction counts only where
    w <= `switch` (Wang et al. 2017, arXiv 1612.01205); larger ratios trust the model.
    """
    w, r = logged.ratio, logged.reward
    correction = w * (r - logged.model)
    base = logged.before * logged.value
    tops = {
        "ips": w * r,
        "snips": w * r,
        "dr": base + correction,
        "switch_dr": base + np.where(w <= switch, correction, 0.0),
    }
    ones = np.ones(len(r))
    slots, clusters = int(logged.slot.max()) + 1, int(logged.cluster.max()) + 1
    weights = cluster_weights(clusters, draws, seed)

    def ratio_of(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        """Mean over slots of sums over clusters, each weighted by its decisions."""
        total = np.zeros(len(weights))
        for slot in range(slots):
            rows = logged.slot == slot
            sums = [np.bincount(logged.cluster[rows], part[rows], minlength=clusters) for part in (top, bottom)]
            with np.errstate(invalid="ignore", divide="ignore"):
                total += rows.mean() * (weights @ sums[0]) / (weights @ sums[1])
        return total

    found = {name: ratio_of(top, w if name == "snips" else ones) for name, top in tops.items()}
    by_slot = [w[logged.slot == slot] for slot in range(slots)]
    effective = np.array([x.sum() ** 2 / max((x**2).sum(), 1e-300) for x in by_slot])
    rows = np.array([len(x) for x in by_slot])
    return Estimates(found, ratio_of(r, ones), effective, rows, float(w.max()))
