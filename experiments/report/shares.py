"""The lift of vectors against the share of click utility that only content explains."""

from typing import Any

from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, xy
from experiments.lift.shares_report import SLICES, findings, tables
from experiments.page import Section

AGAINST = {"id_only": "over id-only", "content": "over shuffled vectors"}


def shares_section(found: dict[str, Any]) -> Section:
    """The section of a study's figures (see experiments/lift/shares_report.py)."""
    said = tuple(f"*{arm}*: {line}" for arm in found["arms"] for line in findings(found, arm))
    return Section("shares", "Lift against the content share", (*share_plots(found), *tables(found)), said)


def share_plots(found: dict[str, Any]) -> list[Plot]:
    """The lift by share, over id-only and over each arm's twin, on all items and on new ones."""
    plots = []
    for name, against in AGAINST.items():
        arms = {a: r for a, r in found["arms"].items() if name == "id_only" or "content" in r[0]}
        for part in SLICES if arms else ():
            curves = []
            for arm, rows in arms.items():
                lifts = [(row if name == "id_only" else row["content"])[part] for row in rows]
                columns = [[one[key] for one in lifts] for key in ("value", "low", "high")]
                band = columns[1:] if None not in columns[1] else [(), ()]
                curves.append(Curve(arm, [row["share"] for row in rows], columns[0], band[0], band[1], marks=True))
            what = "all items" if part == "all" else part.replace("_", " ")
            plane = Plane("content share", f"lift of true CTR {against}", y_form="{:+.1%}", zero=True)
            title = f"Lift {against}, {what}"
            plots.append(xy(f"{name}-{part}", title, plane, curves, series=list(found["arms"])))
    return plots
