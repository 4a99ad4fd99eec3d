"""A study's groups as a flat frame (parquet) and as markdown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from experiments.ablation.table import METRICS, OVERALL, figure, of_seeds, of_users


def frame(groups: Sequence[dict[str, Any]], slices: Sequence[str]) -> pl.DataFrame:
    """One row a group: figures (mean, sd), both differences with interval and p by slice, and cost.

    Columns: METRIC_WHERE, METRIC_WHERE_sd, {gain,content_gain}_METRIC_WHERE{,_low,_high,_p} over users and the same
    with _seeds for single runs; null where there is nothing to say.
    """
    return pl.DataFrame([_flat(group, (OVERALL, *slices)) for group in groups], infer_schema_length=None)


def _flat(group: dict[str, Any], places: Sequence[str]) -> dict[str, Any]:
    row = {name: group[name] for name in ("name", "mechanism", "mode", "dim", "shuffled")}
    row |= {"seeds": len(group["seeds"]), "failed": len(group["failed"])}
    for where in places:
        for metric in METRICS:
            found = figure(group, where, metric) or {"mean": None, "sd": None}
            row |= {f"{metric}_{where}": found["mean"], f"{metric}_{where}_sd": found["sd"]}
    for kind in ("gain", "content_gain"):
        for where in places:
            for metric in METRICS:
                for suffix, test in (("", of_users), ("_seeds", of_seeds)):
                    found = test(group[kind], where, metric) if group[kind] else {}
                    for part, column in (("delta", ""), ("low", "_low"), ("high", "_high"), ("p", "_p")):
                        row[f"{kind}_{metric}_{where}{suffix}{column}"] = found.get(part)
    for metric in METRICS:
        row[f"content_gain_{metric}_holm"] = group["content_gain"]["holm"][metric] if group["content_gain"] else None
    cost = group["cost"] or {}
    row |= {name: cost.get(name) for name in ("rows_per_second", "peak_rss_bytes", "seconds", "cpu_seconds")}
    row |= {f"parameters_{kind}": cost.get("parameters", {}).get(kind) for kind in ("dense", "tables", "vectors")}
    return row


def markdown(report: dict[str, Any]) -> str:
    """The report as markdown: the table, the content gains, the failures, how to read it."""
    groups, slices = report["groups"], report["slices"]
    lines = [f"# {report['study']}", "", *notes(report), ""]
    lines += _table(
        ["group", "seeds", "AUC", "GAUC", *(f"AUC, {title(s)}" for s in slices), "CPU s", "parameters", "peak memory"],
        [_figures_row(group, slices) for group in groups],
    )
    for kind, heading in (("gain", f"Gain over `{report['id_only']}`"), ("content_gain", "Content gain")):
        rows = [_gain_row(group, kind, slices) for group in groups if group[kind]]
        if rows:
            head = [
                "group",
                "AUC",
                "GAUC",
                *(f"AUC, {title(s)}" for s in slices),
                "AUC, single runs",
                "GAUC, single runs",
            ]
            head += ["p of AUC, GAUC (Holm)"] if kind == "content_gain" else []
            lines += ["", f"## {heading}", "", *_table(head, rows)]
    failed = [f"- `{cell}`: {line}" for group in groups for cell, line in group["failed"].items()]
    if failed:
        lines += ["", "## Failed cells", "", *failed]
    return "\n".join(lines) + "\n"


def notes(report: dict[str, Any]) -> list[str]:
    """How to read the table, in sentences."""
    tuned = report["tuning"]
    gains = sum(group["content_gain"] is not None for group in report["groups"])
    budget = (
        f"Tuned on valid {tuned['metric'].upper()} only, {tuned['trials']} trials for every mechanism, baselines "
        "included; a shuffled twin has the settings of its real model."
        if tuned
        else "Not tuned: every mechanism has the base recipe's settings."
    )
    return [
        f"{report['split'].capitalize()} split of {report['source']}, {report['rows']:,} rows; "
        f"mean ± deviation over seeds {', '.join(map(str, report['seeds']))}. {budget}",
        "",
        "Differences: mean scores over the seeds, 95 % interval by a bootstrap over users "
        f"({report['draws']:,} draws). *Single runs*: the same difference of one run, 95 % interval by a paired t-test "
        "over the seeds. *Content gain*: real minus shuffled vectors. "
        f"Of {2 * gains} content gains tested at 5 %, {0.1 * gains:.1f} would differ from zero by chance alone; "
        "Holm's p bounds the chance of one such find.",
    ]


def title(where: str) -> str:
    """A slice in words."""
    return where.replace("_", " ")


def label(group: dict[str, Any], word: str = "title") -> str:
    """A group in words, by its title or `mechanism`."""
    if group["mode"] is None:
        return group[word]
    parts = [group["mode"], "all dims" if group["dim"] is None else f"{group['dim']} dims"]
    return f"{group[word]} ({', '.join(parts + ['shuffled'] * group['shuffled'])})"


def labels(groups: Sequence[dict[str, Any]], word: str = "title") -> list[str]:
    """The groups by their title (or `mechanism`), with mode and dims only where those are not what most have."""
    kinds = Counter((group["mode"], group["dim"]) for group in groups if group["mode"] is not None)
    usual = kinds.most_common(1)[0][0] if kinds else None
    return [g[word] if g["mode"] is None or (g["mode"], g["dim"]) == usual else label(g, word) for g in groups]


def pm(found: dict[str, Any] | None) -> str:
    """A figure with its deviation."""
    if found is None:
        return "-"
    return f"{found['mean']:.4f}" + (f" ± {found['sd']:.4f}" if found["sd"] is not None else "")


def interval(found: dict[str, Any]) -> str:
    """A difference with its interval, bold if the interval excludes zero."""
    if "reason" in found:
        return "-"
    words = f"{found['delta']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return f"**{words}**" if found["low"] > 0 or found["high"] < 0 else words


def count(number: int) -> str:
    """A number of parameters in thousands or millions."""
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def costs(group: dict[str, Any]) -> list[str]:
    """CPU seconds of a run (rows/s say less on a shared machine), parameters that are trained, peak memory."""
    cost = group["cost"]
    if cost is None:
        return ["-"] * 3
    cpu = cost.get("cpu_seconds")  # None: runs of earlier versions
    trained = cost["parameters"]["dense"] + cost["parameters"]["tables"]
    return ["-" if cpu is None else f"{cpu:,.0f}", count(trained), f"{cost['peak_rss_bytes'] / 2**20:,.0f} MiB"]


def _figures_row(group: dict[str, Any], slices: Sequence[str]) -> list[str]:
    done = len(group["seeds"])
    seeds = f"{done}" + (f" ({len(group['failed'])} failed)" if group["failed"] else "")
    figures = [pm(figure(group, OVERALL, metric)) for metric in METRICS]
    return [label(group), seeds, *figures, *(pm(figure(group, s, "auc")) for s in slices), *costs(group)]


def _gain_row(group: dict[str, Any], kind: str, slices: Sequence[str]) -> list[str]:
    found = group[kind]
    row = [label(group), *(interval(of_users(found, OVERALL, metric)) for metric in METRICS)]
    row += [interval(of_users(found, s, "auc")) for s in slices]
    row += [interval(of_seeds(found, OVERALL, metric)) for metric in METRICS]
    if kind == "content_gain":
        row.append(", ".join(f"{found['holm'][metric]:.2g}" for metric in METRICS))
    return row


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
