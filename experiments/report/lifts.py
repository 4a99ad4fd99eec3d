"""Online tests on the marketplace and off-policy estimates."""

from typing import Any

from experiments.charts.intervals import Estimate, intervals
from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, xy
from experiments.lift import report as lift_report
from experiments.ope import report as ope_report
from experiments.page import Card, Part, Prose, Section
from experiments.report.words import slice_title

PERCENT = "{:+.1%}"


def lift_section(found: dict[str, Any]) -> Section:
    """An online test."""
    parts: list[Part] = [Prose((lift_report.summary(found),)), lifts(found), by_day(found), by_slice(found)]
    control = found["control"]
    return Section(
        "lift",
        f"Online test against {control}",
        (*parts, *lift_report.tables(found)),
        _said(found),
        _cards(found),
    )


def _arms(found: dict[str, Any]) -> list[str]:
    """The arms that are shown beside the control, trained ones first."""
    built_in = ("popular", "oracle")
    names = [n for n in found["arms"] if n not in ("random", found["control"])]
    return [n for n in names if n not in built_in] + [n for n in names if n in built_in]


def _said(found: dict[str, Any]) -> tuple[str, ...]:
    said = []
    for name in _arms(found):
        if name == "oracle":
            continue
        lift = found["arms"][name]["metrics"]["ctr"]["lift"]
        if lift["low"] is None:
            continue
        verdict = "established" if lift["low"] > 0 or lift["high"] < 0 else "not established"
        said.append(f"*{name}* against {found['control']}: CTR {_reach(lift)} over {found['days']} days: {verdict}.")
    return tuple(said)


def _reach(value: dict[str, float]) -> str:
    text = f"{value['value']:+.1%} [{value['low']:+.1%}, {value['high']:+.1%}]"
    return text.replace("-", "\u2212")


def _cards(found: dict[str, Any]) -> tuple[Card, ...]:
    trained = [n for n in _arms(found) if n not in ("popular", "oracle")]
    cards = []
    for name in trained[-2:]:
        lift = found["arms"][name]["metrics"]["ctr"]["lift"]
        if lift["low"] is not None:
            value, _, reach = _reach(lift).partition(" ")
            cards.append(Card(f"CTR, {name} over {found['control']}", value, reach))
    return tuple(cards)


def lifts(found: dict[str, Any]) -> Plot:
    """Lift of every arm over the control by metric."""
    rows = []
    for name in _arms(found):
        for metric, label in (
            ("ctr", "CTR"),
            ("true_ctr", "true CTR"),
            ("rpm", "revenue"),
            ("advertiser_value", "value"),
        ):
            lift = found["arms"][name]["metrics"][metric]["lift"]
            if lift["value"] is not None:
                rows.append(Estimate(name, lift["value"], lift["low"], lift["high"], label))
    note = "Paired: all arms met the same sessions, candidates and chance. *Value*: worth of the clicks to sellers."
    title = f"Lift over {found['control']}"
    return intervals("lifts", title, f"relative to {found['control']}", rows, note, "{:+.0%}", full=True)


def by_day(found: dict[str, Any]) -> Plot:
    """Lift up to every day."""
    curves = []
    names = [n for n in _arms(found) if n != "oracle"]
    for name in names:
        rows = [(day, r) for day, r in enumerate(found["arms"][name]["by_day"]["ctr"], 1) if r["low"] is not None]
        if rows:
            days, values = zip(*rows, strict=True)
            columns = [[v[k] for v in values] for k in ("value", "low", "high")]
            curves.append(Curve(name, days, columns[0], columns[1], columns[2], marks=True))
    note = "Up to and including each day. The bands of all days hold together at 95 %, so one may look every day."
    plane = Plane("days", f"CTR lift over {found['control']}", x_form="{:.0f}", y_form=PERCENT, zero=True)
    return xy("days", "Lift over days", plane, curves, note=note, full=True, series=names)


def by_slice(found: dict[str, Any]) -> Plot:
    """Lift of the true click rate by slice."""
    rows = []
    names = [n for n in _arms(found) if n not in ("popular", "oracle")] or ["popular"]
    for part in next(iter(found["arms"].values()))["slices"]:
        for name in names:
            lift = found["arms"][name]["slices"][part]["true_ctr"]["lift"]
            if lift["value"] is not None and lift["low"] is not None:
                rows.append(Estimate(slice_title(part), lift["value"], lift["low"], lift["high"], name))
    title, measure = "Lift by slice", f"true CTR relative to {found['control']}"
    return intervals("lift-slices", title, measure, rows, "", "{:+.0%}", full=True, series=names)


def ope_section(found: dict[str, Any]) -> Section:
    """An off-policy estimate."""
    rows = [Estimate(name, **e["value"]) for name, e in found["estimates"].items()]
    truth = found["truth"]
    rows.append(Estimate("truth", truth["value"], truth["low"], truth["high"]))
    rows.append(Estimate("the log's own rate", found["logged_value"]))
    plot = intervals("estimates", "Estimators and the truth", "click rate of the policy", rows, base=None, full=True)
    parts: tuple[Part, ...] = (Prose((ope_report.summary(found),)), plot, *ope_report.tables(found))
    return Section("ope", f"Off-policy estimate on {found['log']}", parts)
