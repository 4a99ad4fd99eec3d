"""Rankers that were scored on the same rows: figures with intervals, differences, curves, calibration, slices, cost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from experiments.charts.intervals import Estimate, intervals
from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, Point, xy
from experiments.page import Card, Part, Prose, Section, Table
from experiments.report.words import judged, signed, slice_title
from ranker.compare import difference, read_runs, spread
from ranker.metrics import reliability
from ranker.run_folder import RunFolder
from ranker.significance import bootstrap_auc, bootstrap_gauc

SPLITS = ("test", "valid")
CURVE_POINTS = 120


@dataclass(frozen=True)
class Rankers:
    """Finished runs on one dataset, scored on one split, compared.

    Attributes:
        split: of the figures. base: the recipe the others are held against.
        facts: by recipe, figures over seeds (ranker.compare.spread). levels: by recipe, (AUC, GAUC) of the mean scores
            with their intervals over users. gains: by recipe, differences from the base (ranker.compare.difference).
        runs: by recipe, its runs by seed. scores: by recipe.
    """

    source: str
    split: str
    rows: int
    users: int
    base: str
    facts: dict[str, dict[str, Any]]
    levels: dict[str, dict[str, dict[str, float]]]
    gains: dict[str, dict[str, Any]]
    runs: dict[str, list[RunFolder]]
    calibration: dict[str, dict[str, np.ndarray]]

    @property
    def best(self) -> str:
        """The recipe with the highest mean AUC."""
        return max(self.facts, key=lambda name: self.facts[name]["auc"]["mean"])


def gather(runs: Sequence[RunFolder], against: str | None, draws: int) -> Rankers | None:
    """Compare finished runs of one dataset; None if there are none.

    The base is `against`, else the recipe without vectors that has the highest mean AUC.
    Raises InputError if `against` is none of them, or the runs were not scored on the same rows.
    """
    done = [run for run in runs if run.meta().get("finished")]
    if not done:
        return None
    split = next((s for s in SPLITS if all(run.predictions(s).is_file() for run in done)), None)
    if split is None:
        raise InputError(f"{done[0].root}: not all runs have predictions of one split; write them with moon eval")
    rows, recipes = read_runs(done, split)
    facts = {recipe.name: spread(recipe, rows) for recipe in recipes}
    mine: dict[str, list[RunFolder]] = {recipe.name: [] for recipe in recipes}
    for run in done:
        mine[run.meta()["name"]].append(run)
    for name in mine:
        mine[name].sort(key=lambda run: run.meta()["seed"])
    base = against or _base(mine, facts)
    if base not in facts:
        raise InputError(f"--against {base}: no finished run has this recipe (there are: {', '.join(facts)})")
    by_name = {recipe.name: recipe for recipe in recipes}
    order = [base, *sorted((n for n in facts if n != base), key=lambda n: facts[n]["auc"]["mean"])]
    scores = {name: by_name[name].mean(list(by_name[name].scores)) for name in order}
    return Rankers(
        source=done[0].meta()["dataset"]["source"],
        split=split,
        rows=len(rows.label),
        users=len(np.unique(rows.user)),
        base=base,
        facts={name: facts[name] for name in order},
        levels={name: _levels(rows.label, scores[name], rows.user, draws) for name in order},
        gains={name: difference(by_name[base], by_name[name], facts, rows, draws) for name in order[1:]},
        runs={name: mine[name] for name in order},
        calibration={name: reliability(rows.label, scores[name]) for name in order},
    )


def _base(runs: dict[str, list[RunFolder]], facts: dict[str, dict[str, Any]]) -> str:
    plain = [name for name, mine in runs.items() if not mine[0].recipe().features.vectors]
    return max(plain or facts, key=lambda name: facts[name]["auc"]["mean"])


def _levels(label: np.ndarray, score: np.ndarray, user: np.ndarray, draws: int) -> dict[str, dict[str, float]]:
    """AUC and GAUC with their intervals over users: the difference from a constant score, whose AUC is 1/2."""
    constant, found = np.zeros(len(score)), {}
    for metric, test in (("auc", bootstrap_auc), ("gauc", bootstrap_gauc)):
        over = test(label, constant, score, user, draws)
        found[metric] = {"value": 0.5 + over.delta, "low": 0.5 + over.low, "high": 0.5 + over.high}
    return found


def sections(found: Rankers) -> list[Section]:
    """The rankers' part of a page."""
    parts: list[Part] = [_about(found), _figures(found), *_levels_plots(found)]
    if found.gains:
        parts.append(_gains(found))
    made = [Section("rankers", "Rankers", tuple(parts), _said(found), _cards(found))]
    differ = _slices(found) if found.gains else []
    if differ:
        made.append(Section("slices", "Where they differ", tuple(differ)))
    made.append(Section("calibration", "Calibration", (_calibration(found), _calibration_table(found))))
    made.append(Section("training", "Training", tuple(_curves(found))))
    made.append(Section("cost", "Cost", tuple(_cost(found))))
    return made


def _about(found: Rankers) -> Prose:
    seeds = {len(f["seeds"]) for f in found.facts.values()}
    repeated = "one seed each" if seeds == {1} else f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else ""
    repeated = repeated or f"{next(iter(seeds))} seeds each"
    return Prose((
        f"{found.split.capitalize()} split of {found.source}: {found.rows:,} impressions of {found.users:,} users; "
        f"{repeated}. Intervals hold 95 % and come from drawing users with replacement; they say nothing about other "
        "training seeds unless several were trained. Differences are paired: the same rows, scored by both.",
    ))  # fmt: skip


def _said(found: Rankers) -> tuple[str, ...]:
    said = []
    for name, gain in found.gains.items():
        auc, gauc = gain["rows"]["auc_by_user"], gain["rows"]["gauc"]
        verdict = judged(auc["low"], auc["high"])
        said.append(
            f"*{name}* against {found.base}: AUC {signed(auc['delta'])} [{signed(auc['low'])}, {signed(auc['high'])}], "
            f"GAUC {signed(gauc['delta'])} [{signed(gauc['low'])}, {signed(gauc['high'])}]: {verdict} on AUC, "
            f"{judged(gauc['low'], gauc['high'])} on GAUC."
        )
        over = gain["seeds"]
        if "reason" not in over and "auc" in over:
            test = over["auc"]
            said[-1] += (
                f" Over {len(found.facts[name]['seeds'])} seeds, single runs: AUC {signed(test['delta'])} "
                f"[{signed(test['low'])}, {signed(test['high'])}]."
            )
    return tuple(said)


def _cards(found: Rankers) -> tuple[Card, ...]:
    best = found.best
    cards = []
    for metric in ("auc", "gauc"):
        level = found.levels[best][metric]
        reach = f"[{level['low']:.4f}, {level['high']:.4f}]"
        cards.append(Card(f"{metric.upper()} of {best}", f"{level['value']:.4f}", reach))
    if best in found.gains:
        for metric, key in (("AUC", "auc_by_user"), ("GAUC", "gauc")):
            gain = found.gains[best]["rows"][key]
            reach = f"[{signed(gain['low'])}, {signed(gain['high'])}]"
            cards.append(Card(f"{metric} over {found.base}", signed(gain["delta"]), reach))
    return tuple(cards)


def _figures(found: Rankers) -> Table:
    head = ["recipe", "seeds", "AUC", "GAUC", "log loss", "NE", "PCOC", "ECE"]
    rows = []
    for name, facts in found.facts.items():
        cells = [_pm(facts[m]) for m in ("auc", "gauc", "logloss", "ne", "pcoc", "ece")]
        rows.append([f"{name} (base)" if name == found.base else name, f"{len(facts['seeds'])}", *cells])
    note = "Mean over the seeds, and the deviation where there are several."
    return Table("Figures", note, head, rows)


def _pm(value: dict[str, Any]) -> str:
    return f"{value['mean']:.4f}" + (f" ± {value['sd']:.4f}" if value["sd"] is not None else "")


def _levels_plots(found: Rankers) -> list[Plot]:
    plots = []
    for metric, title in (("auc", "AUC"), ("gauc", "GAUC")):
        levels = {name: level[metric] for name, level in found.levels.items()}
        rows = [Estimate(name, at["value"], at["low"], at["high"]) for name, at in levels.items()]
        plots.append(intervals(metric, title, f"{title}, {found.split}", rows, base=None))
    return plots


def _gains(found: Rankers) -> Plot:
    rows = []
    for name, gain in found.gains.items():
        for series, key in (("AUC", "auc_by_user"), ("GAUC", "gauc")):
            part = gain["rows"][key]
            rows.append(Estimate(name, part["delta"], part["low"], part["high"], series))
    note = "Paired differences; an interval that leaves out zero establishes one."
    title = f"Difference from {found.base}"
    return intervals("gains", title, f"minus {found.base}", rows, note, "{:+.4f}", full=True)


def _slices(found: Rankers) -> list[Plot]:
    plots = []
    for metric in ("auc", "gauc"):
        rows = []
        names = list(found.gains)[-6:]
        for part, facts in found.facts[found.base]["slices"].items():
            for name in names:
                test = found.gains[name]["slices"][part][metric]
                if "reason" not in test and not facts.get("too_small"):
                    line = f"{slice_title(part)} ({facts['rows']:,})"
                    rows.append(Estimate(line, test["delta"], test["low"], test["high"], name))
        if rows:
            note = "By slice of the rows, with their number; slices with fewer than 50 rows of a class are left out."
            title = f"{metric.upper()} by slice, minus {found.base}"
            measure = f"difference in {metric.upper()}"
            plots.append(intervals(f"slices-{metric}", title, measure, rows, note, "{:+.3f}", series=names))
    return plots


def _calibration(found: Rankers) -> Plot:
    curves = []
    for name, table in list(found.calibration.items())[-6:]:
        curves.append(Curve(name, table["score"].tolist(), table["ctr"].tolist(), marks=True))
    positive = all(min(min(c.x), min(c.y)) > 0 for c in curves)
    wide = max(max(c.x) for c in curves) / max(min(min(c.x) for c in curves), 1e-9) > 8
    plane = Plane("predicted", "clicked", positive and wide, positive and wide, diagonal=True)
    note = "Twenty bins of equally many rows. A point above the dashed line was clicked more often than predicted."
    return xy("reliability", "Predicted and observed click rates", plane, curves, note=note)


def _calibration_table(found: Rankers) -> Plot:
    rows = []
    for name, facts in found.facts.items():
        values = np.array(facts["pcoc"]["values"])
        reach = (float(values.min()), float(values.max())) if len(values) > 1 else (None, None)
        rows.append(Estimate(name, float(values.mean()), *reach))
    note = "Mean prediction over click rate; 1 is right on the whole. Whiskers: smallest and largest seed."
    return intervals(
        "pcoc",
        "PCOC",
        "predicted clicks over clicks",
        rows,
        note,
        "{:.3f}",
        base=1.0,
        ends=("lowest seed", "highest seed"),
    )


def _curves(found: Rankers) -> list[Plot]:
    loss, valid = [], {"auc": [], "gauc": []}
    names = list(found.runs)[-6:]
    for name in names:
        lines = log_lines(found.runs[name][0].log)
        steps = [line for line in lines if "loss" in line]
        steps = thinned(steps[len(steps) // 20 :])
        if steps:
            loss.append(Curve(name, [s["step"] for s in steps], [s["loss"] for s in steps]))
        evals = [line for line in lines if "valid" in line]
        for metric, curves in valid.items():
            if evals:
                curves.append(Curve(name, [e["step"] for e in evals], [e["valid"][metric] for e in evals], marks=True))
    plots = []
    if loss:
        note = "First seed of each recipe; mean over the steps since the point before. The first twentieth is left out."
        plots.append(xy("loss", "Training loss", Plane("step", "log loss"), loss, note=note, full=True, series=names))
    for metric, curves in valid.items():
        if curves:
            title = f"{metric.upper()} on valid"
            plots.append(xy(f"valid-{metric}", title, Plane("step", metric.upper()), curves, series=names))
    return plots


def _cost(found: Rankers) -> list[Part]:
    rows, points = [], []
    for name, runs in found.runs.items():
        metas = [run.meta() for run in runs]
        speed = max(meta["rows_per_second"] for meta in metas)
        counts, first = metas[0]["parameters"], metas[0]
        memory = np.median([m["peak_rss_bytes"] for m in metas]) / 2**20
        rows.append([
            name, f"{speed:,.0f}", f"{np.median([m['seconds'] for m in metas]):,.0f}", f"{memory:,.0f}",
            f"{counts['dense'] + counts['tables']:,}", f"{counts['vectors']:,}",
            f"{first['device']} x {first['world_size']}",
        ])  # fmt: skip
        level = found.levels[name]["auc"]
        points.append(Point("recipes", speed, level["value"], name, None, None, level["low"], level["high"]))
    head = ["recipe", "rows/s", "seconds", "peak MiB", "trained numbers", "stored numbers", "device"]
    note = (
        "Speed of the fastest seed (other work on a machine only slows); median time and memory. *Stored numbers*: "
        "item vectors that the run leaves as they are."
    )
    table = Table("What they cost", note, head, rows)
    if len(points) < 3:
        return [table]
    plane = Plane("training rows/s", f"AUC, {found.split}", x_log=True)
    return [table, xy("quality-cost", "AUC against speed", plane, points=points, full=True)]


def log_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics.jsonl."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most CURVE_POINTS lines, evenly taken, the last one among them."""
    if len(lines) <= CURVE_POINTS:
        return lines
    at = np.unique(np.linspace(0, len(lines) - 1, CURVE_POINTS).round().astype(int))
    return [lines[i] for i in at]
