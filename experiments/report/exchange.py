"""The exchange-rate study: gain in AUC against each intermediate metric, the rates, and which metric to steer by."""

from typing import Any

import numpy as np

from experiments.charts.intervals import Estimate, intervals
from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, Point, xy
from experiments.page import Card, Part, Prose, Section, Table
from experiments.studies.exchange_fit import sign
from experiments.studies.metric_names import TITLES

PAPER = "image_search_hr@10"
SHOWN = ("image_search_hr@10", "item_item_hr@10", "next_item", "category", "text_search_hr@10", "contrastive")


def exchange_section(found: dict[str, Any]) -> Section:
    """The section of a study's findings (see experiments/studies/exchange_rate.py)."""
    rates = found["rates"]
    parts: list[Part] = [Prose((_about(found),)), *_rates(rates)]
    parts += [_scatter(found, metric) for metric in SHOWN if metric in rates]
    parts += _categories(rates)
    parts += [_table(rates), _versions(found)]
    return Section("exchange", "Exchange rate", tuple(parts), verdict(found), _cards(rates))


def _about(found: dict[str, Any]) -> str:
    return (
        f"{len(found['versions'])} encoder versions, {len(found['seeds'])} seeds each, one fixed recipe; "
        f"{found['rows']:,} test rows of {found['source']}. Gains are over the recipe without vectors, same seed. "
        "A rate is the gain that goes with one point (.01) of a metric; its interval draws versions and seeds "
        "again, so it says how the rate would come out with other versions of this kind."
    )


def verdict(found: dict[str, Any]) -> tuple[str, ...]:
    """What was found, in sentences."""
    rates = found["rates"]
    sure = {m: r for m, r in rates.items() if all(part["low"] > 0 for part in _fits(r))}
    said = []
    if sure:
        best = max(sure, key=lambda m: sure[m]["auc"]["r2"])
        rate = sure[best]["auc"]
        said.append(
            f"Steer by *{TITLES[best]}*: a point of it goes with {_gain(rate['slope'])} AUC "
            f"[{_gain(rate['low'])}, {_gain(rate['high'])}], R² {rate['r2']:.2f} over the versions."
        )
        others = [TITLES[m] for m in sure if m != best]
        if others:
            said.append(f"These have a positive rate as well, shuffled vectors or not: {', '.join(others)}.")
    else:
        said.append(
            "No metric has an exchange rate whose interval leaves out zero, with and without shuffled vectors: nothing "
            "here is fit to steer by."
        )
    if PAPER in rates:
        rate, parts = rates[PAPER], rates[PAPER]["categories"]
        up = sum(part["slope"] > 0 for part in parts.values())
        held = sum(part["low"] > 0 for part in parts.values())
        said.append(
            f"Picture search recall, the paper's metric: {sign(rate['auc']['low'], rate['auc']['high'])} on AUC, "
            f"{sign(rate['gauc']['low'], rate['gauc']['high'])} on GAUC; positive in {up} of {len(parts)} categories "
            f"(established in {held})."
        )
        real = rate.get("without_shuffled")
        if real:
            said.append(
                "Without the version whose vectors are shuffled it is "
                f"{sign(real['auc']['low'], real['auc']['high'])} on AUC ({_gain(real['auc']['slope'])} a point)."
            )
    wrong = [TITLES[m] for m, r in rates.items() if r["auc"]["high"] < 0]
    if wrong:
        said.append(f"These go the wrong way: {', '.join(wrong)}.")
    return tuple(said)


def _fits(rate: dict[str, Any]) -> list[dict[str, float]]:
    """The rate in AUC over all versions, and over those whose vectors are not shuffled."""
    return [rate["auc"], rate["without_shuffled"]["auc"]] if "without_shuffled" in rate else [rate["auc"]]


def _gain(value: float) -> str:
    return f"{value:+.5f}".replace("-", "\u2212")


def _cards(rates: dict[str, Any]) -> tuple[Card, ...]:
    cards = []
    for metric in (PAPER, "item_item_hr@10"):
        if metric in rates:
            rate = rates[metric]["auc"]
            reach = f"[{_gain(rate['low'])}, {_gain(rate['high'])}]"
            cards.append(Card(f"AUC a point of {TITLES[metric]}", _gain(rate["slope"]), reach))
    return tuple(cards)


def _estimate(line: str, series: str, rate: dict[str, float]) -> Estimate:
    return Estimate(line, rate["slope"], rate["low"], rate["high"], series)


def _rates(rates: dict[str, Any]) -> list[Plot]:
    rows = []
    for metric, rate in rates.items():
        for name in ("auc", "gauc"):
            rows.append(_estimate(TITLES[metric], name.upper(), rate[name]))
    if not rows:
        return []
    note = "One point is .01 of the metric; metrics differ in how far versions spread, so compare the fits as well."
    return [intervals("rates", "What a point buys", "gain a point", rows, note, "{:+.4f}", full=True)]


def _scatter(found: dict[str, Any], metric: str) -> Plot:
    points, x, y = [], [], []
    for version in found["versions"]:
        if metric not in version["metrics"]:
            continue
        value, gains = version["metrics"][metric], version["gains"]["auc"]
        x.append(value["value"])
        y.append(float(np.mean(gains)))
        reach = {"y_low": min(gains), "y_high": max(gains)}
        points.append(Point("versions", x[-1], y[-1], version["name"], value["low"], value["high"], **reach))
    rate = found["rates"][metric]["auc"]
    ends = [min(x), max(x)]
    line = [float(np.mean(y)) + rate["slope"] * 100 * (end - float(np.mean(x))) for end in ends]
    note = (
        f"R² {rate['r2']:.2f}, rank correlation {rate['spearman']:+.2f} (p {rate['p']:.2f}). Whiskers: 95 % across, "
        "smallest and largest seed up and down."
    )
    plane = Plane(TITLES[metric], "AUC over id-only", y_form="{:+.3f}", zero=True)
    curve = Curve("fit", ends, line, dashed=True)
    return xy(
        f"scatter-{metric.replace('@', '')}", TITLES[metric], plane, [curve], points, note, series=["versions", "fit"]
    )


def _categories(rates: dict[str, Any]) -> list[Plot]:
    plots = []
    for metric in (PAPER, "item_item_hr@10"):
        if metric in rates and rates[metric]["categories"]:
            parts = rates[metric]["categories"]
            rows = [Estimate(name, part["slope"], part["low"], part["high"]) for name, part in parts.items()]
            title = f"By category: {TITLES[metric]}"
            plots.append(intervals(f"category-{metric.replace('@', '')}", title, "AUC a point", rows, "", "{:+.4f}"))
    return plots


def _table(rates: dict[str, Any]) -> Table:
    head = [
        "metric",
        "AUC a point",
        "GAUC a point",
        "R\u00b2 (AUC)",
        "R\u00b2 (GAUC)",
        "rank correlation",
        "p",
        "one version less",
    ]
    rows = []
    for metric, rate in rates.items():
        auc = rate["auc"]
        cells = [f"{_gain(r['slope'])} [{_gain(r['low'])}, {_gain(r['high'])}]" for r in (auc, rate["gauc"])]
        less = " to ".join(_gain(value) for value in auc["leave_one_out"])
        fits = [f"{auc['r2']:.2f}", f"{rate['gauc']['r2']:.2f}", f"{auc['spearman']:+.2f}", f"{auc['p']:.3f}"]
        rows.append([TITLES[metric], *cells, *fits, less])
    return Table("Rates", "Rank correlation is Spearman's, p by permutation of the versions.", head, rows)


def _versions(found: dict[str, Any]) -> Table:
    metrics = [m for m in SHOWN if any(m in v["metrics"] for v in found["versions"])]
    head = ["version", *(TITLES[m] for m in metrics), "AUC gain", "GAUC gain"]
    rows = []
    for version in found["versions"]:
        cells = [f"{version['metrics'][m]['value']:.3f}" if m in version["metrics"] else "–" for m in metrics]
        cells += [
            f"{np.mean(version['gains'][m]):+.4f} ± {np.std(version['gains'][m], ddof=1):.4f}" for m in ("auc", "gauc")
        ]
        rows.append([version["title"], *cells])
    return Table("Versions", "Gains: mean and deviation over the seeds.", head, rows)
