"""The plots of a study as inline SVG whose colours are CSS variables, so that one drawing serves light and dark pages.

Variables: --ink (text, axes), --soft (grid, zero line), --a and --b (the two kinds of points), --card (halos).
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.ablation.table import METRICS, OVERALL, of_users
from experiments.ablation.text import labels

COLOURS = {"#010101": "var(--ink)", "#020202": "var(--soft)", "#030303": "var(--a)", "#040404": "var(--b)"}
INK, SOFT, A, B = COLOURS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ablation",
    "font.family": "sans-serif",
    "font.size": 10,
    **{name: INK for name in ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")},
    "axes.edgecolor": SOFT,
    "grid.color": SOFT,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def content_gains(groups: Sequence[dict[str, Any]]) -> str | None:
    """Content gain of every group with its 95 % interval, AUC and GAUC side by side; None if there is none."""
    shown = [group for group in groups if group["content_gain"]]
    if not shown:
        return None
    shown = sorted(shown, key=lambda group: of_users(group["content_gain"], OVERALL, "auc")["delta"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.1 + 0.28 * len(shown)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, metric in zip(axes, METRICS, strict=True):
            found = [of_users(group["content_gain"], OVERALL, metric) for group in shown]
            _intervals(ax, found, metric)
        axes[0].set_yticks(range(len(shown)), labels(shown))
        return _svg(figure)


def gain_against_cost(groups: Sequence[dict[str, Any]]) -> str | None:
    """Gain over id-only of every group with real vectors against its training speed; None if there is none."""
    shown = [group for group in groups if group["gain"] and not group["shuffled"] and group["cost"]]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4 + 0.1 * len(shown)), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True)
        for ax, metric in zip(axes, METRICS, strict=True):
            _against_cost(ax, shown, metric)
        return _svg(figure)


def _intervals(ax: Axes, found: Sequence[dict[str, Any]], metric: str) -> None:
    ax.axvline(0, color=SOFT, linewidth=1.2)
    for y, gain in enumerate(found):
        colour = A if gain["low"] > 0 or gain["high"] < 0 else B
        ax.plot([gain["low"], gain["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="round")
        ax.plot([gain["delta"]], [y], "o", color=colour, markersize=5)
    ax.set_ylim(-0.6, len(found) - 0.4)
    ax.set_xlabel(f"{metric.upper()}, real minus shuffled vectors")
    ax.grid(axis="x")
    ax.set_axisbelow(True)


def _against_cost(ax: Axes, groups: Sequence[dict[str, Any]], metric: str) -> None:
    gains = [of_users(group["gain"], OVERALL, metric) for group in groups]
    speed = np.array([group["cost"]["rows_per_second"] for group in groups])
    ax.set_xscale("log")
    ax.set_xlim(speed.min() * 0.85, speed.max() * (speed.max() / speed.min()) ** 0.9 * 1.6)
    ax.axhline(0, color=SOFT, linewidth=1.2)
    for x, gain, group in zip(speed, gains, groups, strict=True):
        colour = A if group["mode"] is not None else B
        ax.plot([x, x], [gain["low"], gain["high"]], color=colour, linewidth=1.4, alpha=0.7)
        ax.plot([x], [gain["delta"]], "o", color=colour, markersize=5)
    heights = spaced([gain["delta"] for gain in gains], (ax.get_ylim()[1] - ax.get_ylim()[0]) * 0.034)
    place = speed.max() * 1.12
    for x, y, gain, words in zip(speed, heights, gains, labels(groups), strict=True):
        ax.plot([x, place * 0.985], [gain["delta"], y], color=SOFT, linewidth=0.6, zorder=0)
        ax.text(place, y, words, fontsize=7.5, va="center")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, *heights), max(high, *heights))
    ticks = [t for t in (1e2, 2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6)]
    ticks = [t for t in ticks if speed.min() * 0.85 <= t <= speed.max() * 1.1] or [float(speed.max())]
    ax.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("training rows/s (faster to the right)")
    ax.set_ylabel(f"gain in {metric.upper()} over id-only")
    ax.grid(axis="y")
    ax.set_axisbelow(True)


def spaced(values: Sequence[float], apart: float) -> list[float]:
    """The values moved as little as a sweep can, so that no two are closer than `apart`; their order is kept."""
    order = np.argsort(values, kind="stable")
    placed = np.asarray(values, np.float64)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + apart)
    placed -= np.mean(placed - np.asarray(values, np.float64)[order])
    out = np.empty(len(placed))
    out[order] = placed
    return out.tolist()


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element that scales with its container."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, variable)
    head, end, rest = text.partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", head) + end + rest
