"""Encoder runs and their search recall: losses, figures on valid, HR@K with intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.charts.intervals import Estimate, intervals
from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, xy
from experiments.page import Card, Part, Section, Table
from experiments.report.rankers import log_lines, thinned
from experiments.report.words import signed

NOT_FIGURES = ("step", "epoch", "best", "loss", "lr")


def runs_section(runs: Sequence[Path]) -> Section:
    """Training of encoders."""
    rows, losses, figures = [], [], {}
    for run in runs:
        config, lines = yaml.safe_load((run / "config.yaml").read_text()), log_lines(run / "metrics.jsonl")
        stage = f"post-training {config['stage']}" if "stage" in config else "pretraining"
        done = (run / "encoder" / "encoder.json").is_file()
        found = json.loads((run / "figures.json").read_text()) if (run / "figures.json").is_file() else {}
        steps = [line for line in lines if "loss" in line]
        last = steps[-1] if steps else {}
        cost = [f"{found[k]:,.0f}" if k in found else "–" for k in ("steps", "best_step", "seconds")]
        memory = f"{found['peak_rss_bytes'] / 2**20:,.0f}" if "peak_rss_bytes" in found else "–"
        loss = f"{last['loss']:.4f}" if last else "–"
        rows.append([run.name, config["name"], stage, "finished" if done else "not finished", *cost, memory, loss])
        if steps:
            kept = thinned(steps[len(steps) // 20 :])
            losses.append(Curve(run.name, [s["step"] for s in kept], [s["loss"] for s in kept]))
        for name, curve in _valid(run.name, lines).items():
            figures.setdefault(name, []).append(curve)
    head = ["run", "recipe", "stage", "state", "steps", "best step", "seconds", "peak MiB", "last loss"]
    parts: list[Part] = [Table("Runs", "", head, rows)]
    if losses:
        note = (
            "Losses of different stages and pools of negatives are not comparable. The first twentieth of the steps is "
            "left out."
        )
        parts.append(xy("encoder-loss", "Training loss", Plane("step", "loss"), losses, note=note, full=True))
    parts += [_figure(name, curves) for name, curves in figures.items()]
    return Section("encoders", "Encoder training", tuple(parts))


def _valid(run: str, lines: list[dict[str, Any]]) -> dict[str, Curve]:
    """Curves of what was measured on valid, by name."""
    evals = [line for line in lines if "best" in line]
    names = [k for k, v in evals[0].items() if isinstance(v, float) and k not in NOT_FIGURES] if evals else []
    return {
        name: Curve(run, [e["step"] for e in evals if name in e], [e[name] for e in evals if name in e], marks=True)
        for name in names
    }


def _figure(name: str, curves: list[Curve]) -> Plot:
    slug = "".join(c if c.isalnum() else "-" for c in name)
    return xy(f"valid-{slug}", f"{name} on valid", Plane("step", name), curves)


def recall_section(found: dict[str, Any]) -> Section:
    """Figures of `moon encoder recall`."""
    parts: list[Part] = []
    said, cards = [], []
    for name, task in found["tasks"].items():
        rows = []
        subjects = [(found["subject"], task)]
        if "baseline" in task:
            subjects.append((found["baseline"], task["baseline"]))
        shown = [f for f in task["figures"] if not f.startswith("precision")]
        for figure in shown:
            for subject, figures in subjects:
                rows.append(
                    Estimate(figure, **{k: figures[figure][k] for k in ("value", "low", "high")}, series=subject)
                )
        note = f"{task['queries']:,} queries, gallery of {task['gallery']:,} items. " + " ".join(task["notes"])
        parts.append(intervals(f"recall-{name}", name, "share of queries", rows, note, "{:.2f}"))
        head = task[shown[0]]
        cards.append(Card(f"{shown[0]}, {name}", f"{head['value']:.3f}", f"[{head['low']:.3f}, {head['high']:.3f}]"))
        if "difference" in task:
            gain = task["difference"][shown[0]]
            verdict = "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no difference established"
            said.append(
                f"{name}: {shown[0]} {signed(gain['value'])} [{signed(gain['low'])}, {signed(gain['high'])}] "
                f"against {found['baseline']}, {verdict}."
            )
    if found["left_out"]:
        parts.append(Table("Left out", "", ["task", "why"], [[k, v] for k, v in found["left_out"].items()]))
    title = f"Search recall: {found['subject']}"
    return Section("recall", title, tuple(parts), tuple(said), tuple(cards[:4]))
