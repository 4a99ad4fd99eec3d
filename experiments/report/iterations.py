"""The iterations study: a waterfall from ids alone to the last version, offline and online."""

from typing import Any

import numpy as np
from scipy import stats

from experiments.charts.intervals import Estimate, intervals
from experiments.charts.waterfall import Step, waterfall
from experiments.page import Card, Part, Prose, Section, Table
from experiments.report.words import judged

AXES = {
    "data": "data processing",
    "training": "training strategy",
    "model": "model architecture",
    "application": "downstream application",
}


def iterations_section(found: dict[str, Any]) -> Section:
    """The section of a study's findings (see experiments/studies/iterations.py)."""
    parts: list[Part] = [Prose((_about(found),))]
    for metric in ("auc", "gauc"):
        parts.append(_waterfall(found, metric))
    parts.append(_own(found))
    if found["steps"][0].get("content"):
        parts.append(_content(found))
    if found["online"]:
        parts += _online(found)
    parts.append(_table(found))
    return Section("iterations", "Iterations", tuple(parts), verdict(found), _cards(found))


def _about(found: dict[str, Any]) -> str:
    return (
        f"{len(found['steps'])} versions on {found['source']}; {found['rows']:,} test rows, {found['users']:,} users, "
        f"{len(found['seeds'])} seeds. A step's own gain is over the step before it, on the same rows; intervals of "
        "mean scores draw users again."
    )


def verdict(found: dict[str, Any]) -> tuple[str, ...]:
    """What each step brought, in sentences."""
    said = []
    for step in found["steps"]:
        gains = [step["own"][m]["users"] for m in ("auc", "gauc")]
        words = ", ".join(f"{m} {_reach(g)}" for m, g in zip(("AUC", "GAUC"), gains, strict=True))
        way = judged(gains[0]["low"], gains[0]["high"])
        found_out = f"{words}: {way} on AUC." if any(map(_moved, gains)) else "scores are those of the step before."
        said.append(f"*{step['title']}* ({AXES[step['axis']]}): {found_out}")
        if step.get("content"):
            said[-1] += f" Over the same step on shuffled vectors: AUC {_reach(step['content']['auc']['users'])}."
    last = found["steps"][-1]["whole"]
    whole = ", ".join(f"{m.upper()} {_reach(last[m]['users'])}" for m in last)
    said.append(f"All together over ids alone: {whole}.")
    if found["online"]:
        name = found["steps"][-1]["name"]
        mean, low, high = over_seeds([t["lifts"][name]["value"] for t in found["online"]["tests"]])
        reach = f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]".replace("-", "\u2212")
        said.append(f"Online, the last version over ids alone: true CTR {reach} over seeds.")
        twin = f"{name}_shuffled"
        if all(twin in t["levels"] for t in found["online"]["tests"]):
            logs = [float(np.log(t["levels"][name] / t["levels"][twin])) for t in found["online"]["tests"]]
            mean, low, high = over_seeds(logs)
            reach = f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]".replace("-", "\u2212")
            said.append(f"Online, the last version over its twin on shuffled vectors: {reach} over seeds.")
    return tuple(said)


def _moved(gain: dict[str, float]) -> bool:
    return gain["low"] != 0 or gain["high"] != 0


def over_seeds(values: list[float]) -> tuple[float, float, float]:
    """Mean with its 95 % t interval."""
    numbers = np.array(values)
    half = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)))
    return float(numbers.mean()), float(numbers.mean()) - half, float(numbers.mean()) + half


def _reach(value: dict[str, float]) -> str:
    return f"{value['delta']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]".replace("-", "\u2212")


def _cards(found: dict[str, Any]) -> tuple[Card, ...]:
    last = found["steps"][-1]["whole"]
    cards = []
    for metric in ("auc", "gauc"):
        value, _, reach = _reach(last[metric]["users"]).partition(" ")
        cards.append(Card(f"{metric.upper()}, all steps over ids alone", value, reach))
    return tuple(cards)


def _waterfall(found: dict[str, Any], metric: str):
    """Mean levels over the seeds; a step's bar is the difference of means, its whisker that of single runs."""
    before, steps = found["start"][metric]["mean"], []
    for step in found["steps"]:
        level, over = step["levels"][metric]["mean"], step["own"][metric]["seeds"]
        reach = (over["low"], over["high"]) if over else (None, None)
        steps.append(Step(step["title"], level - before, *reach))
        before = level
    note = (
        "Mean over the seeds of single runs; whiskers: 95 % t interval of the step over the seeds. Grey bars do not "
        "start at 0."
    )
    title = f"{metric.upper()}, step by step"
    return waterfall(
        f"fall-{metric}", title, metric.upper(), ("ids alone", found["start"][metric]["mean"]), steps, note
    )


def _own(found: dict[str, Any]):
    note = "Mean scores over the seeds; intervals over users."
    return _gains(found, "own", "Each step's own gain", "over the step before", note)


def _content(found: dict[str, Any]):
    note = "Mean scores over the seeds; intervals over users. A twin has the same layers and other items' vectors."
    return _gains(found, "content", "What the content brings", "over the same step on shuffled vectors", note)


def _gains(found: dict[str, Any], kind: str, title: str, axis: str, note: str):
    """Intervals of one kind of gain of every step, AUC and GAUC."""
    rows = []
    for step in found["steps"]:
        for metric in ("auc", "gauc"):
            gain = step[kind][metric]["users"]
            rows.append(Estimate(step["title"], gain["delta"], gain["low"], gain["high"], metric.upper()))
    return intervals(kind, title, axis, rows, note, "{:+.4f}", full=True)


def _online(found: dict[str, Any]) -> list[Part]:
    tests = found["online"]["tests"]
    names = ["id_only", *(step["name"] for step in found["steps"])]
    logs = {name: np.array([np.log(t["levels"][name] / t["levels"]["id_only"]) for t in tests]) for name in names}
    steps = []
    for before, step in zip(names, found["steps"], strict=False):
        mean, low, high = over_seeds(list(logs[step["name"]] - logs[before]))
        steps.append(Step(step["title"], mean, low, high))
    days = found["online"]["days"]
    note = (
        f"{days} {'day' if days == 1 else 'days'} after the logs, {tests[0]['sessions']:,} sessions, the same for all "
        "arms; logarithms of true click rates, so that steps add up; 95 % t intervals over training seeds."
    )
    plot = waterfall(
        "online", "Online lift, step by step", "lift of true CTR", ("ids alone", 0.0), steps, note, "{:+.1%}", "{:+.1%}"
    )
    return [plot]


def _table(found: dict[str, Any]) -> Table:
    head = ["step", "axis", "AUC", "GAUC", "own AUC gain", "own GAUC gain", "AUC over ids alone", "GAUC over ids alone"]
    rows = []
    for step in found["steps"]:
        levels = [f"{step['levels'][m]['mean']:.4f} ± {step['levels'][m]['sd']:.4f}" for m in ("auc", "gauc")]
        gains = [_reach(step[kind][m]["users"]) for kind in ("own", "whole") for m in ("auc", "gauc")]
        rows.append([step["title"], AXES[step["axis"]], *levels, *gains])
    return Table("Steps", "Levels: mean and deviation over the seeds.", head, rows)
