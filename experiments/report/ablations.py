"""An ablation study: what the content of the vectors is worth by mechanism, against which cost."""

from collections.abc import Sequence
from typing import Any

from experiments.ablation.table import METRICS, OVERALL, figure, of_seeds, of_users
from experiments.ablation.text import costs, interval, label, labels, notes, pm, title
from experiments.charts.intervals import Estimate, intervals
from experiments.charts.plot import Plot
from experiments.charts.xy import Plane, Point, xy
from experiments.page import Card, Part, Prose, Section, Table

Groups = Sequence[dict[str, Any]]


def ablation_section(report: dict[str, Any]) -> Section:
    """The section of a study's report (see experiments/ablation/command.py)."""
    groups, slices = report["groups"], report["slices"]
    quiet = frozenset(i for i, group in enumerate(groups) if group["shuffled"])
    parts: list[Part] = [Prose(tuple(line for line in notes(report) if line))]
    parts += [*content_gains(groups), *gain_against_cost(groups, report["id_only"])]
    parts.append(Table("All groups", "", *_figures(groups, slices), quiet))
    for kind, heading in (
        ("gain", f"Gain over {report['id_only']}"),
        ("content_gain", "Content gain: real minus shuffled vectors"),
    ):
        shown = [group for group in groups if group[kind]]
        if shown:
            quiet = frozenset(i for i, group in enumerate(shown) if group["shuffled"])
            parts.append(Table(heading, "", *_gains(shown, kind, slices), quiet))
    failed = [[cell, line] for group in groups for cell, line in group["failed"].items()]
    if failed:
        parts.append(Table("Failed cells", "", ["cell", "what it said last"], failed))
    parts += _settings(report)
    return Section("ablation", f"Ablation: {report['study']}", tuple(parts), _said(groups), _cards(groups))


def _real(groups: Groups) -> list[dict[str, Any]]:
    found = [group for group in groups if group["content_gain"]]
    return sorted(found, key=lambda group: -of_users(group["content_gain"], OVERALL, "auc")["delta"])


def _said(groups: Groups) -> tuple[str, ...]:
    said = []
    for group in _real(groups)[:4]:
        tests = [of_users(group["content_gain"], OVERALL, metric) for metric in METRICS]
        words = ", ".join(f"{m.upper()} {_plain(t)}" for m, t in zip(METRICS, tests, strict=True))
        sure = all(group["holm"] < 0.05 for group in ({"holm": h} for h in group["content_gain"]["holm"].values()))
        verdict = "holds after Holm's correction" if sure else "does not hold after Holm's correction on both metrics"
        said.append(f"Content gain of *{label(group)}*: {words}; {verdict}.")
    return tuple(said)


def _cards(groups: Groups) -> tuple[Card, ...]:
    real = _real(groups)
    if not real:
        return ()
    best, cards = real[0], []
    for metric in METRICS:
        value, _, reach = _plain(of_users(best["content_gain"], OVERALL, metric)).partition(" ")
        cards.append(Card(f"Content gain in {metric.upper()}, {best['title']}", value, reach))
    return tuple(cards)


def content_gains(groups: Groups) -> list[Plot]:
    """Content gain of every group, AUC and GAUC; none if there is none."""
    shown = _real(groups)
    rows = []
    for group, name in zip(shown, labels(shown), strict=True):
        for metric in METRICS:
            test = of_users(group["content_gain"], OVERALL, metric)
            rows.append(Estimate(name, test["delta"], test["low"], test["high"], metric.upper()))
    if not rows:
        return []
    note = "The same model with real vectors minus with vectors that have changed places among the items."
    return [
        intervals(
            "content-gains",
            "What the content is worth",
            "real minus shuffled vectors",
            rows,
            note,
            "{:+.3f}",
            full=True,
        )
    ]


def gain_against_cost(groups: Groups, id_only: str) -> list[Plot]:
    """Gain over id-only of every group with real vectors against the CPU time of a run, AUC and GAUC."""
    real = [group for group in groups if group["gain"] and not group["shuffled"] and group["cost"]]
    shown = [group for group in real if group["cost"].get("cpu_seconds")]  # not of earlier versions
    plots = []
    for metric in METRICS if len(shown) > 1 else ():
        points = []
        for group, name in zip(shown, labels(shown, "mechanism"), strict=True):
            test, seconds = of_users(group["gain"], OVERALL, metric), group["cost"]["cpu_seconds"]
            kind = "reads vectors" if group["mode"] is not None else "reads none"
            points.append(Point(kind, seconds, test["delta"], name, y_low=test["low"], y_high=test["high"]))
        plane = Plane(
            "CPU seconds of a run (cheaper to the left)",
            f"gain in {metric.upper()}",
            x_log=True,
            zero=True,
            y_form="{:+.3f}",
        )
        note = f"Gain over {id_only}, 95 % intervals over users."
        plots.append(
            xy(
                f"cost-{metric}",
                f"{metric.upper()} against cost",
                plane,
                points=points,
                note=note,
                full=True,
                series=["reads vectors", "reads none"],
            )
        )
    return plots


def _figures(groups: Groups, slices: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    places = (OVERALL, *slices)
    head = ["group", "seeds", *(_head(metric, where) for where in places for metric in METRICS)]
    rows = []
    for group in groups:
        cells = [pm(figure(group, where, metric)) for where in places for metric in METRICS]
        rows.append([label(group), str(len(group["seeds"])), *cells, *costs(group)])
    return [*head, "CPU s", "parameters", "peak memory"], rows


def _gains(groups: Groups, kind: str, slices: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    places = (OVERALL, *slices)
    head = ["group", *(_head(metric, where) for where in places for metric in METRICS)]
    head += [f"{metric.upper()}, single runs" for metric in METRICS]
    head += ["p (Holm): AUC, GAUC"] if kind == "content_gain" else []
    rows = []
    for group in groups:
        tests = [of_users(group[kind], where, metric) for where in places for metric in METRICS]
        tests += [of_seeds(group[kind], OVERALL, metric) for metric in METRICS]
        row = [label(group), *map(_plain, tests)]
        if kind == "content_gain":
            row.append(", ".join(f"{group[kind]['holm'][metric]:.2g}" for metric in METRICS))
        rows.append(row)
    return head, rows


def _head(metric: str, where: str) -> str:
    return metric.upper() if where == OVERALL else f"{metric.upper()}, {title(where)}"


def _plain(test: dict[str, Any]) -> str:
    return interval(test).strip("*").replace("-", "\u2212") if "reason" not in test else "–"


def _settings(report: dict[str, Any]) -> list[Part]:
    facts = [[name, "–" if value is None else str(value)] for name, value in report["facts"].items()]
    parts: list[Part] = [Table("Settings and machine", "", ["what", ""], facts)]
    tuned = report["tuning"]
    if tuned:
        paths = tuned["space"]
        rows = []
        for name, found in tuned["found"].items():
            values = [found["settings"][path] for path in paths]
            cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
            rows.append([name, *cells, f"{found['value']:.4f}"])
        parts.append(Table("Tuned on valid", "", ["mechanism", *paths, f"valid {tuned['metric'].upper()}"], rows))
    return parts
