"""Metrics of click scores, each defined once: exact AUC, GAUC, log loss, NE, PCOC, ECE.

All take arrays over the same n rows: label (0/1), score (a click probability unless said otherwise), group (user).
Memory is a small multiple of these arrays. Bad input (lengths that differ, a non-finite score, a label outside
{0, 1}, one class only) raises InputError; nothing is dropped silently.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import InputError
from ranker.ranked import Ranked, Sorted, sorted_by_score

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
    value = _whole_auc(sorted_by_score(label, score))
    if value is None:
        raise InputError(f"AUC needs both classes; all {len(label)} labels are {int(label[0])}")
    return value


def _whole_auc(rows: Sorted) -> float | None:
    """AUC of rows as one group; None with one class."""
    value = float(rows.aucs()[2][0])
    return value if np.isfinite(value) else None


def group_aucs(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(group values, rows, AUC) of every group, AUC NaN with one class."""
    check(label, score, group)
    sorted_rows = Ranked.of(label, score, group).by_group
    start, rows, value = sorted_rows.aucs()
    assert sorted_rows.group is not None
    return sorted_rows.group[start], rows, value


def gauc(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> Gauc:
    """Group AUC over global groups (METHOD: never per batch).

    Raises InputError if no group has both classes.
    """
    check(label, score, group)
    return _gauc(Ranked.of(label, score, group).by_group)


def _gauc(sorted_rows: Sorted) -> Gauc:
    _, rows, value = sorted_rows.aucs()
    both = np.isfinite(value)
    if not both.any():
        raise InputError(f"GAUC needs a group with both classes; none of the {len(rows)} groups has them")
    counted = int(rows[both].sum())
    mean = float(np.average(value[both], weights=rows[both]))
    return Gauc(mean, counted, int(both.sum()), counted / int(rows.sum()), float(both.mean()))


def logloss(label: np.ndarray, score: np.ndarray) -> float:
    """Mean negative log likelihood of probabilities, clipped to [1e-15, 1 - 1e-15]."""
    check(label, score)
    p = np.clip(score.astype(np.float64, copy=False), 1e-15, 1 - 1e-15)
    clicked = label == 1
    loss = np.empty(len(p))
    np.log(p, out=loss, where=clicked)
    np.log1p(-p, out=loss, where=~clicked)
    return float(-np.mean(loss))


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
    return _reliability(sorted_by_score(label, score), bins)


def _reliability(sorted_rows: Sorted, bins: int = 20) -> dict[str, np.ndarray]:
    n = len(sorted_rows.label)
    edges = np.linspace(0, n, min(bins, n) + 1).astype(np.int64)
    rows = np.diff(edges)
    return {
        "rows": rows,
        "score": np.add.reduceat(sorted_rows.score.astype(np.float64), edges[:-1]) / rows,
        "ctr": np.add.reduceat(sorted_rows.label.astype(np.float64), edges[:-1]) / rows,
    }


def ece(label: np.ndarray, score: np.ndarray, bins: int = 20) -> float:
    """Expected calibration error: row-weighted mean |mean score - CTR| over equal-mass bins."""
    return _ece(reliability(label, score, bins))


def _ece(table: dict[str, np.ndarray]) -> float:
    return float(np.average(np.abs(table["score"] - table["ctr"]), weights=table["rows"]))


def summary(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> dict[str, Any]:
    """All metrics of one set of rows, as in metrics.json."""
    check(label, score, user)
    return _summary(label, score, Ranked.of(label, score, user))


def _summary(label: np.ndarray, score: np.ndarray, ranked: Ranked) -> dict[str, Any]:
    grouped = _gauc(ranked.by_group)
    return {
        "auc": _whole_auc(ranked.by_score),
        "gauc": grouped.value,
        "gauc_rows_share": grouped.rows_share,
        "gauc_users_share": grouped.groups_share,
        "logloss": logloss(label, score),
        "ne": normalised_entropy(label, score),
        "pcoc": pcoc(label, score),
        "ece": _ece(_reliability(ranked.by_score)),
        "ctr": float(np.mean(label)),
        "rows": len(label),
        "users": len(ranked.by_group.aucs()[0]),
    }


def slice_summary(ranked: Ranked) -> dict[str, Any]:
    """AUC and GAUC of a slice with its size. Fewer than MIN_CLASS_ROWS of a class: marked `too_small`
    (the standard error of such an AUC is above about .04); a class that is absent gives null and the reason."""
    label = ranked.by_score.label
    positives = int(np.count_nonzero(label))
    facts: dict[str, Any] = {"rows": len(label), "positives": positives, "auc": None, "gauc": None}
    if min(positives, len(label) - positives) < MIN_CLASS_ROWS:
        facts["too_small"] = True
    if not positives or positives == len(label):
        facts["reason"] = "one class only" if len(label) else "no rows"
        return facts
    facts["auc"] = _whole_auc(ranked.by_score)
    try:
        grouped = _gauc(ranked.by_group)
        facts |= {"gauc": grouped.value, "gauc_rows_share": grouped.rows_share}
    except InputError:
        facts["reason"] = "no user with both classes"
    return facts


def report(
    label: np.ndarray, score: np.ndarray, user: np.ndarray, slices: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """`summary` plus `slices` (name -> boolean mask (n,)) plus the reliability table; sorts once for all of them."""
    check(label, score, user)
    ranked = Ranked.of(label, score, user)
    found = _summary(label, score, ranked)
    found["slices"] = {name: slice_summary(ranked.only(mask)) for name, mask in (slices or {}).items()}
    found["reliability"] = {name: values.tolist() for name, values in _reliability(ranked.by_score).items()}
    return found
