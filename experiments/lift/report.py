"""A test's figures as markdown and as one self-contained page with plots."""

from html import escape
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.page import Table, cell, page, svg


def markdown(found: dict[str, Any]) -> str:
    """The figures as text."""
    parts = [f"# Online test against {found['control']}", summary(found), *(t.markdown() for t in tables(found))]
    return "\n\n".join(parts) + "\n"


def html(found: dict[str, Any]) -> str:
    """The figures and plots as one page."""
    head = f"<h1>Online test against {escape(found['control'])}</h1><p>{escape(summary(found))}</p>"
    plots = [svg(_lifts(found)), svg(_by_day(found)), svg(_slices(found))]
    return page("Online test", "".join([head, *plots, *(table.html() for table in tables(found))]))


def summary(found: dict[str, Any]) -> str:
    """What was played, in a few sentences."""
    ads = "bid x pCTR" if found["rank_by"] == "bid_ctr" else "pCTR"
    text = (
        f"{found['sessions']:,} sessions of {found['users']:,} users over {found['days']} days after training, content "
        f"share {found['content_share']:g}, ads stand by {ads}. All arms met the same sessions, candidates and chance; "
        "95 % intervals, users left out one by one."
    )
    for metric, aa in found.get("aa", {}).items():
        text += (
            f" A/A by {metric}: the interval covered zero in {aa['covers_zero']:.1%} of {aa['replays']} splits; a live "
            f"test with half of these users in each arm detects {_percent(aa['minimum_detectable_effect'])}."
        )
    return text


def tables(found: dict[str, Any]) -> list[Table]:
    """The tables."""
    arms, control = found["arms"], found["control"]
    metrics = list(found["metrics"])
    lifts = [
        [name, *(cell(arm["metrics"][m]["lift"]) if name != control else "-" for m in metrics)]
        for name, arm in arms.items()
    ]
    levels = [[name, *(f"{arm['metrics'][m]['level']['value']:.4g}" for m in metrics)] for name, arm in arms.items()]
    rooms = [
        [name, *(cell(arm["metrics"][m]["headroom"], "{:.0%}") for m in metrics)]
        for name, arm in arms.items()
        if name not in (control, "oracle", "random")
    ]
    live = [
        [
            name,
            *(cell(arm["metrics"][m]["lift_of_a_live_test"]) for m in ("ctr", "rpm")),
            _percent(arm["metrics"]["ctr"]["detectable_paired"], 2),
        ]
        for name, arm in arms.items()
        if name != control
    ]
    parts = list(next(iter(arms.values()))["slices"])
    slices = [
        [
            name,
            *(
                f"{arm['slices'][p]['ctr']['level']['value'] or 0:.4f} ({cell(arm['slices'][p]['ctr']['lift'])})"
                for p in parts[:3]
            ),
        ]
        for name, arm in arms.items()
    ]
    new = [
        [
            name,
            f"{arm['slices']['new_items']['impression_share']['value']:.1%}",
            f"{arm['new_items']['shown']:.1%}",
            f"{arm['new_items']['shown_20_times']:.1%}",
            f"{arm['new_items']['items']:,}",
        ]
        for name, arm in arms.items()
    ]
    meanings = "; ".join(f"{name}: {what}" for name, what in found["metrics"].items())
    room = f"(arm - {control}) / (oracle - {control}); the oracle ranks by the true click probability."
    new_note = (
        "Items without a train impression: their share of all impressions; of those that take part, how many were "
        "shown at all, and twenty times."
    )
    live_note = (
        "Half of the users in each arm, split by hash; the last column is the smallest lift that the paired test above "
        "detects (power 80 %)."
    )
    return [
        Table(f"Lift over {control}", f"{meanings}.", ["arm", *metrics], lifts),
        Table("Levels", "", ["arm", *metrics], levels),
        Table("Share of the oracle's headroom", room, ["arm", *metrics], rooms),
        Table("Slices", f"CTR, and its lift over {control}.", ["arm", *parts[:3]], slices),
        Table("New items", new_note, ["arm", "impressions", "shown", "shown 20 times", "items"], new),
        Table("What a live test would read", live_note, ["arm", "ctr", "rpm", "detectable, paired"], live),
    ]


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _shown_arms(found: dict[str, Any]) -> list[str]:
    return [name for name in found["arms"] if name not in ("random", found["control"])]


def _lifts(found: dict[str, Any]) -> Figure:
    names, metrics = _shown_arms(found), ("ctr", "true_ctr", "rpm", "advertiser_value")
    figure, axes = plt.subplots(1, len(metrics), figsize=(11, 0.5 * len(names) + 1.4), sharey=True)
    for axis, metric in zip(axes, metrics, strict=True):
        for row, name in enumerate(names):
            _bar(axis, row, found["arms"][name]["metrics"][metric]["lift"])
        axis.axvline(0, color="#999", linewidth=0.8)
        axis.set_title(f"{metric}, % lift", fontsize=10)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    return figure


def _slices(found: dict[str, Any]) -> Figure:
    names = _shown_arms(found)
    parts = list(found["arms"][names[0]]["slices"])
    figure, axis = plt.subplots(figsize=(11, 0.22 * len(parts) * len(names) + 1.2))
    for place, name in enumerate(names):
        for row, part in enumerate(parts):
            at = row + 0.7 * place / max(1, len(names)) - 0.3
            _bar(axis, at, found["arms"][name]["slices"][part]["true_ctr"]["lift"], f"C{place}")
        axis.plot([], [], "o", color=f"C{place}", label=name)
    axis.set_yticks(range(len(parts)), parts)
    axis.invert_yaxis()
    axis.axvline(0, color="#999", linewidth=0.8)
    axis.set_title("true CTR by slice, % lift", fontsize=10)
    axis.legend(fontsize=8)
    return figure


def _by_day(found: dict[str, Any]) -> Figure:
    names = _shown_arms(found)
    figure, axes = plt.subplots(1, len(names), figsize=(11, 2.6), sharey=False, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = [row for row in found["arms"][name]["by_day"]["ctr"] if row["low"] is not None]
        days = range(1, len(rows) + 1)
        axis.plot(days, [100 * row["value"] for row in rows], "o-", color="C0")
        axis.fill_between(
            days, [100 * row["low"] for row in rows], [100 * row["high"] for row in rows], alpha=0.2, color="C0"
        )
        axis.axhline(0, color="#999", linewidth=0.8)
        axis.set_title(f"{name}: CTR lift so far, %", fontsize=9)
        axis.set_xlabel("days (all intervals hold together)", fontsize=8)
    return figure


def _bar(axis: Any, row: float, value: dict[str, float | None], colour: str = "C0") -> None:
    if value["value"] is None or value["low"] is None or value["high"] is None:
        return
    axis.plot([100 * value["low"], 100 * value["high"]], [row, row], color=colour, linewidth=2)
    axis.plot(100 * value["value"], row, "o", color=colour)
