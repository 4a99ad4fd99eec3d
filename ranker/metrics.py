"""Metrics of click scores, each defined once: exact AUC, GAUC, log loss, NE, PCOC, ECE.

All take arrays over the same n rows: label (0/1), score (a click probability unless said otherwise), group (user).
Memory is a small multiple of these arrays. Bad input (lengths that differ, a non-finite score, a label outside
{0, 1}, one class only) raises InputError; nothing is dropped silently.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import InputError

MIN_CLASS_ROWS = 50
HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False}


def is_better(metric: str, value: float, before: float | None) -> bool:
    """Whether a value of auc, gauc or logloss beats the best one `before` (None: there is none)."""
    return before is None or (value > before if HIGHER_IS_BETTER[metric] else value < before)


@dataclass(frozen=True)
class Gauc:
    """Group AUC: impression-weighted mean of the AUC of every group that has both classes.

    Attributes:
        value: the mean. rows, groups: that count. rows_share, groups_share: of all.
    """

    value: float
    rows: int
    groups: int
    rows_share: float
    groups_share: float


def check(label: np.ndarray, score: np.ndarray, *others: np.ndarray) -> None:
    """Raise InputError unless the arrays are metric material."""
    lengths = {len(a) for a in (label, score, *others)}
    if len(lengths) > 1:
        raise InputError(f"metrics need equally many labels, scores and groups, got {sorted(lengths)} rows")
    if not len(label):
        raise InputError("metrics need at least one row")
    bad = np.flatnonzero(~np.isfinite(score))
    if len(bad):
        raise InputError(f"score of row {bad[0]} is {score[bad[0]]}; {len(bad)} of {len(score)} scores are not finite")
    odd = np.flatnonzero((label != 0) & (label != 1))
    if len(odd):
        raise InputError(f"label of row {odd[0]} is {label[odd[0]]}; labels must be 0 or 1")


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Exact area under the ROC curve: P(score of a positive > of a negative), ties count 1/2.

    Equal to the Mann-Whitney statistic over n+ * n-.
    """
    check(label, score)
    order = np.argsort(score, kind="stable")
    value = _sorted_auc(label[order], score[order])
    if value is None:
        raise InputError(f"AUC needs both classes; all {len(label)} labels are {int(label[0])}")
    return value


def _sorted_auc(label: np.ndarray, score: np.ndarray) -> float | None:
    """AUC of rows sorted by score; None with one class."""
    positives = int(np.count_nonzero(label))
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    pos = np.diff(np.cumsum(label, dtype=np.int64)[last], prepend=0)
    neg = np.diff(last + 1, prepend=0) - pos
    below = np.cumsum(neg) - neg
    twice = int(np.sum(pos * (2 * below + neg)))
    return twice / (2 * positives * negatives)


def group_aucs(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(group values, rows, AUC) of every group, AUC NaN with one class; one sort by (group, score)."""
    check(label, score, group)
    order = np.lexsort((score, group))
    g, s, y = group[order], score[order], label[order].astype(np.int64)
    new_group = np.append(True, g[1:] != g[:-1])
    new_tie = new_group | np.append(True, s[1:] != s[:-1])
    start = np.flatnonzero(new_group)
    rows = np.diff(np.append(start, len(g)))
    tie = np.flatnonzero(new_tie)
    group_of_tie = np.cumsum(new_group)[tie] - 1
    pos = np.add.reduceat(y, tie)
    neg = np.diff(np.append(tie, len(g))) - pos
    before = np.cumsum(neg) - neg
    before -= before[np.searchsorted(tie, start)][group_of_tie]
    twice = np.bincount(group_of_tie, pos * (2.0 * before + neg), minlength=len(start))
    positives = np.add.reduceat(y, start)
    pairs = positives * (rows - positives).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(pairs > 0, twice / (2 * pairs), np.nan)
    return g[start], rows, value


def gauc(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> Gauc:
    """Group AUC over global groups (METHOD: never per batch).

    Raises InputError if no group has both classes.
    """
    _, rows, value = group_aucs(label, score, group)
    both = np.isfinite(value)
    if not both.any():
        raise InputError(f"GAUC needs a group with both classes; none of the {len(rows)} groups has them")
    counted = int(rows[both].sum())
    mean = float(np.average(value[both], weights=rows[both]))
    return Gauc(mean, counted, int(both.sum()), counted / len(label), float(both.mean()))


def logloss(label: np.ndarray, score: np.ndarray) -> float:
    """Mean negative log likelihood of probabilities, clipped to [1e-15, 1 - 1e-15]."""
    check(label, score)
    p = np.clip(score, 1e-15, 1 - 1e-15)
    return float(-np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))


def normalised_entropy(label: np.ndarray, score: np.ndarray) -> float:
    """Log loss over the entropy of the base rate (He et al. 2014): below 1 beats predicting the mean."""
    rate = float(np.mean(label))
    if rate in (0.0, 1.0):
        raise InputError(f"normalised entropy needs both classes; all labels are {int(rate)}")
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    return logloss(label, score) / float(entropy)


def pcoc(label: np.ndarray, score: np.ndarray) -> float:
    """Predicted click over click: mean score / CTR; 1 is calibrated."""
    check(label, score)
    if not label.any():
        raise InputError("PCOC needs at least one positive row")
    return float(np.mean(score, dtype=np.float64) / np.mean(label, dtype=np.float64))


def reliability(label: np.ndarray, score: np.ndarray, bins: int = 20) -> dict[str, np.ndarray]:
    """Reliability table over `bins` equal-mass bins by score: rows, mean score, CTR of each."""
    check(label, score)
    order = np.argsort(score, kind="stable")
    edges = np.linspace(0, len(score), min(bins, len(score)) + 1).astype(np.int64)
    rows = np.diff(edges)
    return {
        "rows": rows,
        "score": np.add.reduceat(score[order].astype(np.float64), edges[:-1]) / rows,
        "ctr": np.add.reduceat(label[order].astype(np.float64), edges[:-1]) / rows,
    }


def ece(label: np.ndarray, score: np.ndarray, bins: int = 20) -> float:
    """Expected calibration error: row-weighted mean |mean score - CTR| over equal-mass bins."""
    table = reliability(label, score, bins)
    return float(np.average(np.abs(table["score"] - table["ctr"]), weights=table["rows"]))


def summary(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> dict[str, Any]:
    """All metrics of one set of rows, as in metrics.json."""
    grouped = gauc(label, score, user)
    return {
        "auc": auc(label, score),
        "gauc": grouped.value,
        "gauc_rows_share": grouped.rows_share,
        "gauc_users_share": grouped.groups_share,
        "logloss": logloss(label, score),
        "ne": normalised_entropy(label, score),
        "pcoc": pcoc(label, score),
        "ece": ece(label, score),
        "ctr": float(np.mean(label)),
        "rows": len(label),
        "users": len(np.unique(user)),
    }


def slice_summary(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> dict[str, Any]:
    """AUC and GAUC of a slice with its size. Fewer than MIN_CLASS_ROWS of a class: marked `too_small`
    (the standard error of such an AUC is above about .04); a class that is absent gives null and the reason."""
    positives = int(np.count_nonzero(label))
    facts: dict[str, Any] = {"rows": len(label), "positives": positives, "auc": None, "gauc": None}
    if min(positives, len(label) - positives) < MIN_CLASS_ROWS:
        facts["too_small"] = True
    if not positives or positives == len(label):
        facts["reason"] = "one class only" if len(label) else "no rows"
        return facts
    facts["auc"] = auc(label, score)
    _, rows, value = group_aucs(label, score, user)
    both = np.isfinite(value)
    if both.any():
        facts["gauc"] = float(np.average(value[both], weights=rows[both]))
        facts["gauc_rows_share"] = float(rows[both].sum() / len(label))
    else:
        facts["reason"] = "no user with both classes"
    return facts


def report(
    label: np.ndarray, score: np.ndarray, user: np.ndarray, slices: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """`summary` plus `slices` (name -> boolean mask (n,)) plus the reliability table."""
    found = summary(label, score, user)
    found["slices"] = {
        name: slice_summary(label[mask], score[mask], user[mask]) for name, mask in (slices or {}).items()
    }
    found["reliability"] = {name: values.tolist() for name, values in reliability(label, score).items()}
    return found
