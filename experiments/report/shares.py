"""The lift of vectors against the share of click utility that only content explains."""

from typing import Any

from experiments.charts.intervals import Estimate, intervals
from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, xy
from experiments.lift.shares_report import SLICES, findings, tables
from experiments.page import Section

Lifts = dict[str, list[tuple[float, dict[str, Any]]]]  # by arm: (share, value with its interval)
PERCENT = "{:+.1%}"
AGAINST = {"id_only": "over id-only", "content": "over shuffled vectors"}


def shares_section(found: dict[str, Any]) -> Section:
    """The section of a study's figures (see experiments/lift/shares_report.py)."""
    said = tuple(f"*{arm}*: {line}" for arm in found["arms"] for line in findings(found, arm))
    return Section("shares", "Lift against the content share", (*share_plots(found), *tables(found)), said)


def share_plots(found: dict[str, Any]) -> list[Plot]:
    """The lift by share (of a single share: by arm), over id-only and over each arm's twin, on all items and on new
    ones."""
    plots = []
    for name, against in AGAINST.items():
        arms = {a: r for a, r in found["arms"].items() if name == "id_only" or "content" in r[0]}
        for part in SLICES if arms else ():
            lifts = {
                arm: [(row["share"], (row if name == "id_only" else row["content"])[part]) for row in rows]
                for arm, rows in arms.items()
            }
            what = "all items" if part == "all" else part.replace("_", " ")
            title, measure = f"Lift {against}, {what}", f"lift of true CTR {against}"
            plot = _by_share if len(found["shares"]) > 1 else _by_arm
            plots.append(plot(f"{name}-{part}", title, measure, lifts, list(found["arms"])))
    return plots


def _by_share(name: str, title: str, measure: str, lifts: Lifts, arms: list[str]) -> Plot:
    curves = []
    for arm, points in lifts.items():
        shares = [share for share, _ in points]
        values, lows, highs = ([one[key] for _, one in points] for key in ("value", "low", "high"))
        curves.append(Curve(arm, shares, values, *(((), ()) if None in lows else (lows, highs)), marks=True))
    return xy(name, title, Plane("content share", measure, y_form=PERCENT, zero=True), curves, series=arms)


def _by_arm(name: str, title: str, measure: str, lifts: Lifts, arms: list[str]) -> Plot:
    rows = [Estimate(arm, **lifts[arm][0][1]) for arm in arms if arm in lifts]
    return intervals(name, title, measure, rows, "", PERCENT)
