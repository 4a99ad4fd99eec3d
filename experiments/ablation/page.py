"""A study as one self-contained HTML page, light and dark."""

import html
from collections.abc import Sequence
from typing import Any

from experiments.ablation import plots
from experiments.ablation.table import METRICS, OVERALL, figure, of_seeds, of_users
from experiments.ablation.text import costs, interval, label, notes, pm, title

CSS = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #cfd5de; --a: #1f6feb; --b: #b3561a; --card: #fff;
  --page: #f5f6f8; --dim: #5c6675; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #3a4352; --a: #6ea8ff; --b: #f0a05a;
  --card: #1b212b; --page: #12161d; --dim: #9aa5b5; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1480px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.6em; margin: 0 0 .4em; } h2 { font-size: 1.15em; margin: 0 0 .6em; }
section { background: var(--card); border: 1px solid var(--soft); border-radius: 10px; padding: 18px 20px;
  margin: 16px 0; }
p { max-width: 90ch; margin: .5em 0; } .dim, small { color: var(--dim); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8em; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 7px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--soft); }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 14em; }
th { color: var(--dim); font-weight: 600; vertical-align: bottom; }
tr.twin td { color: var(--dim); } td.found { color: var(--a); font-weight: 600; }
td small, th small { display: block; font-weight: 400; }
svg { width: 100%; height: auto; } code { font-size: .92em; }
"""


def page(report: dict[str, Any]) -> str:
    """The page of a report (see experiments/ablation/command.py)."""
    groups, slices = report["groups"], report["slices"]
    gains = plots.content_gains(groups)
    against_cost = plots.gain_against_cost(groups)
    parts = [f"<h1>{html.escape(report['study'])}</h1>"]
    parts += [f'<p class="dim">{_emphasised(line)}</p>' for line in notes(report) if line]
    if gains:
        parts.append(_section("What the content is worth", gains + _key("interval excludes zero", "includes zero")))
        parts.append(_section("Content gain: real minus shuffled vectors", _gain_table(groups, "content_gain", slices)))
    if against_cost:
        key = _key("reads vectors", "reads none")
        parts.append(_section(f"Gain over {html.escape(report['id_only'])} against cost", against_cost + key))
    parts.append(_section(f"Gain over {html.escape(report['id_only'])}", _gain_table(groups, "gain", slices)))
    parts.append(_section("All groups", _figure_table(groups, slices)))
    failed = [(cell, line) for group in groups for cell, line in group["failed"].items()]
    if failed:
        rows = "".join(f"<li><code>{html.escape(c)}</code>: {html.escape(line)}</li>" for c, line in failed)
        parts.append(_section("Failed cells", f"<ul>{rows}</ul>"))
    parts.append(_section("Settings and machine", _settings(report)))
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{report['study']}</title>"
    return f"<!doctype html><html lang=en><head>{head}<style>{CSS}</style></head><body><main>{''.join(parts)}</main>"


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>{body}</section>"


def _key(a: str, b: str) -> str:
    return f'<p class="dim"><span style="color:var(--a)">●</span> {a} <span style="color:var(--b)">●</span> {b}</p>'


def _figure_table(groups: Sequence[dict[str, Any]], slices: Sequence[str]) -> str:
    head = ["group", "seeds", "AUC", "GAUC"]
    head += [f"{metric.upper()}<small>{title(s)}</small>" for s in slices for metric in METRICS]
    rows = []
    for group in groups:
        cells = [html.escape(label(group)), f"{len(group['seeds'])}"]
        cells += [_pm(group, where, metric) for where in (OVERALL, *slices) for metric in METRICS]
        rows.append((group["shuffled"], [*cells, *costs(group)]))
    head += ["rows/s", "parameters", "peak memory"]
    return _table(head, [("twin" if twin else "", [("", cell) for cell in cells]) for twin, cells in rows])


def _gain_table(groups: Sequence[dict[str, Any]], kind: str, slices: Sequence[str]) -> str:
    head = ["group"]
    head += [f"{m.upper()}<small>{title(w)}</small>" for w in (OVERALL, *slices) for m in METRICS]
    head += [f"{m.upper()}<small>single runs</small>" for m in METRICS]
    head += ["p<small>Holm: AUC, GAUC</small>"] if kind == "content_gain" else []
    rows = []
    for group in groups:
        found = group[kind]
        if not found:
            continue
        tests = [of_users(found, where, metric) for where in (OVERALL, *slices) for metric in METRICS]
        tests += [of_seeds(found, OVERALL, metric) for metric in METRICS]
        cells = [("", html.escape(label(group))), *map(_difference, tests)]
        if kind == "content_gain":
            cells.append(("", ", ".join(f"{found['holm'][metric]:.2g}" for metric in METRICS)))
        rows.append(("twin" if group["shuffled"] else "", cells))
    return _table(head, rows)


def _difference(test: dict[str, Any]) -> tuple[str, str]:
    text = interval(test)
    value, _, reach = text.strip("*").partition(" ")
    return "found" if text.startswith("**") else "", f"{value}<small>{reach}</small>"


def _pm(group: dict[str, Any], where: str, metric: str) -> str:
    value, _, spread = pm(figure(group, where, metric)).partition(" ")
    return f"{value}<small>{spread}</small>"


def _settings(report: dict[str, Any]) -> str:
    lines = [f"<p>{html.escape(str(name))}: {html.escape(str(value))}</p>" for name, value in report["facts"].items()]
    tuned = report["tuning"]
    if tuned:
        paths = tuned["space"]
        rows = [
            (
                "",
                [
                    ("", f"<code>{name}</code>"),
                    *(
                        (
                            "",
                            f"{found['settings'][p]:.4g}"
                            if isinstance(found["settings"][p], float)
                            else html.escape(str(found["settings"][p])),
                        )
                        for p in paths
                    ),
                    ("", f"{found['value']:.4f}"),
                ],
            )
            for name, found in tuned["found"].items()
        ]
        lines.append(_table(["tuned on valid", *paths, f"valid {tuned['metric'].upper()}"], rows))
    return "".join(lines)


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """head: cells as HTML. rows: (class of the row, [(class of the cell, HTML)])."""
    lines = ["<div class=wide><table><thead><tr>", *(f"<th>{cell}</th>" for cell in head), "</tr></thead><tbody>"]
    for row_class, cells in rows:
        columns = "".join(f'<td class="{name}">{cell}</td>' if name else f"<td>{cell}</td>" for name, cell in cells)
        lines.append(f'<tr class="{row_class}">{columns}</tr>' if row_class else f"<tr>{columns}</tr>")
    return "".join([*lines, "</tbody></table></div>"])


def _emphasised(text: str) -> str:
    """Markdown's *emphasis* and `code` as HTML."""
    out = html.escape(text)
    for mark, tag in (("*", "em"), ("`", "code")):
        pieces = out.split(mark)
        out = "".join(p if i % 2 == 0 else f"<{tag}>{p}</{tag}>" for i, p in enumerate(pieces))
    return out
