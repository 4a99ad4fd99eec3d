"""A self-contained page: sections of prose, tables, plots and exhibits, with nothing from outside.

What a page shows is data first: a section's parts hold their figures, which `data` gives for the JSON beside the page.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from experiments.charts.plot import Plot, key_html, shown
from experiments.page_style import STYLE

BRIEF = 16  # letters of a line's name that stand in one line
MINUS = re.compile(r"(?<![\w.])-(?=\d)")
MOON = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M15.5 2a10 10 0 1 0 6.3 14.6A8.2 8.2 0 0 1 15.5 2Z"/></svg>'
)


@dataclass(frozen=True)
class Prose:
    """Paragraphs; *emphasis* and `code` are marked as in markdown."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A titled table. note: a paragraph above it. head: the columns. rows: cells as text.

    quiet: numbers of the rows that stand back. A cell "value [low, high]" shows its interval in a line of its own.
    """

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    quiet: frozenset[int] = frozenset()

    def markdown(self) -> str:
        """As markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        parts = [f"## {self.title}", self.note, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Exhibit:
    """Something to look at that is no plot, such as pictures with figures. body: HTML. columns, rows: its data."""

    name: str
    title: str
    note: str
    body: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Folded:
    """A text that is shown when asked for, such as a configuration."""

    title: str
    text: str


@dataclass(frozen=True)
class Card:
    """A key figure: what it is, its value, and under it what it is held against or its interval. of: its section."""

    title: str
    value: str
    reach: str = ""
    of: str = ""


@dataclass(frozen=True)
class Findings:
    """What a section found, told elsewhere. anchor, title: the section's. said: in sentences."""

    anchor: str
    title: str
    said: tuple[str, ...]


Part = Prose | Table | Plot | Exhibit | Folded | Findings


@dataclass(frozen=True)
class Section:
    """A part of a page. name: its anchor. said: findings in sentences. cards: key figures."""

    name: str
    title: str
    parts: tuple[Part, ...]
    said: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()


def document(title: str, told: str, sections: Sequence[Section], foot: str = "") -> str:
    """The page. told: what it is about, in a sentence. foot: its last line."""
    links = "".join(f'<li><a href="#{s.name}">{_name(s.title)}</a></li>' for s in sections)
    nav = f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    body = "\n".join(_section(s) for s in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n<a class="skip" href="#main">To the content</a>'
        f'<div class="sheet{"" if nav else " single"}"><header><p class="kicker">{MOON}Moon report</p>'
        f'<h1>{escape(title)}</h1><p class="dim">{marked(told)}</p></header>\n{nav}\n<main id="main">{body}'
        f"<footer>{marked(foot)}</footer></main></div></body></html>\n"
    )


def alone(section: Section) -> str:
    """A page of one section."""
    return document(section.title, "", [section])


def data(sections: Sequence[Section]) -> dict[str, Any]:
    """The figures of every plot, exhibit and table, by section and name; for JSON."""
    found: dict[str, Any] = {}
    for section in sections:
        parts: dict[str, Any] = {}
        said = list(section.said)
        for part in section.parts:
            if isinstance(part, Findings):
                said += part.said
            elif isinstance(part, Plot):
                parts[part.name] = part.data()
            elif isinstance(part, Exhibit):
                rows = [list(row) for row in part.rows]
                parts[part.name] = {"title": part.title, "columns": list(part.columns), "rows": rows}
            elif isinstance(part, Table):
                rows = [list(row) for row in part.rows]
                parts[f"table: {part.title}"] = {"title": part.title, "columns": list(part.head), "rows": rows}
        found[section.name] = {"title": section.title, "findings": said, "parts": parts}
    return found


def marked(text: str) -> str:
    """Markdown's *emphasis* and `code` as HTML."""
    out = escape(text).replace(" %", "\u00a0%")
    for mark, tag in (("`", "code"), ("*", "em")):
        pieces = out.split(mark)
        if len(pieces) % 2:
            out = "".join(p if i % 2 == 0 else f"<{tag}>{p}</{tag}>" for i, p in enumerate(pieces))
    return out


def cell(value: dict[str, float | None], form: str = "{:+.1%}") -> str:
    """An estimate {value, low, high} with its interval."""
    numbers = [value["value"], value["low"], value["high"]]
    if numbers[0] is None:
        return "-"
    if None in numbers:
        return form.format(numbers[0])
    middle, low, high = (form.format(n) for n in numbers)
    return f"{middle} [{low}, {high}]"


def _section(section: Section) -> str:
    said = _said(section.said) if section.said else ""
    cards = "".join(
        f'<div class="card"><dt>{f"<b>{_name(c.of)}</b>" if c.of else ""}{escape(c.title)}</dt>'
        f'<dd><span class="big">{escape(c.value)}</span>'
        f'<span class="reach">{escape(c.reach)}</span></dd></div>'
        for c in section.cards
    )
    cards = f'<dl class="cards">{cards}</dl>' if cards else ""
    parts = "".join(_part(section, part) for part in section.parts)
    parts = f'<div class="parts">{parts}</div>' if parts else ""
    anchor = f'id="{section.name}" aria-labelledby="{section.name}-title"'
    return f'<section {anchor}><h2 id="{section.name}-title">{_name(section.title)}</h2>{cards}{said}{parts}</section>'


def _name(text: str) -> str:
    """A title, whose words with underscores may break there."""
    return escape(text).replace("_", "_<wbr>")


def _said(lines: Sequence[str]) -> str:
    return f'<ul class="said">{"".join(f"<li>{marked(line)}</li>" for line in lines)}</ul>'


def _part(section: Section, part: Part) -> str:
    if isinstance(part, Findings):
        return f'<div><h3><a href="#{part.anchor}">{_name(part.title)}</a></h3>{_said(part.said)}</div>'
    if isinstance(part, Prose):
        return f'<div class="prose">{"".join(f"<p>{marked(p)}</p>" for p in part.paragraphs)}</div>'
    if isinstance(part, Table):
        note = f'<p class="note">{marked(part.note)}</p>' if part.note else ""
        return f'<div class="panel"><h3>{escape(part.title)}</h3>{note}{_table(part)}</div>'
    if isinstance(part, Folded):
        return f'<details class="panel"><summary>{escape(part.title)}</summary><pre>{escape(part.text)}</pre></details>'
    if isinstance(part, Exhibit):
        note = f'<p class="note">{marked(part.note)}</p>' if part.note else ""
        return f'<div class="panel"><h3>{escape(part.title)}</h3>{note}{part.body}</div>'
    return _figure(section, part)


def _figure(section: Section, plot: Plot) -> str:
    name = f"{section.name}-{plot.name}"
    note = f"<p>{marked(plot.note)}</p>" if plot.note else ""
    rows = [[shown(value) for value in row] for row in plot.rows]
    table = _rows(plot.title, plot.columns, rows, frozenset(), "")
    return (
        f'<figure class="panel plot{"" if plot.full else " half"}" aria-labelledby="{name}-title">'
        f'<figcaption><h3 id="{name}-title">{escape(plot.title)}</h3>{note}</figcaption>{key_html(plot.key)}'
        f'<div role="img" aria-label="{escape(plot.alt)}">{plot.wide}{plot.narrow}</div>'
        f"<details><summary>Figures as a table</summary>{table}</details></figure>"
    )


def _table(table: Table) -> str:
    return _rows(table.title, table.head, table.rows, table.quiet, " whole")


def _rows(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], quiet: frozenset[int], look: str) -> str:
    words = {n for n in range(1, len(head)) if any(_is_text(row[n]) for row in rows)}
    look += " brief" if all(len(row[0]) <= BRIEF for row in rows) else ""
    top = "".join(
        f'<th scope="col"{" class=words" if n in words else ""}>{escape(name)}</th>' for n, name in enumerate(head)
    )
    body = ""
    for number, row in enumerate(rows):
        cells = "".join(_cell(text, n in words) for n, text in enumerate(row) if n)
        body += f'<tr{" class=quiet" if number in quiet else ""}><th scope="row">{escape(row[0])}</th>{cells}</tr>'
    return (
        f'<div class="scroll{look}" tabindex="0" role="region" aria-label="{escape(title)}, table">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_text(text: str) -> bool:
    """Whether a cell is in words and not a figure."""
    return len(text) > 1 and not any(c.isdigit() for c in text[:2])


def _cell(text: str, words: bool) -> str:
    """A cell; an interval goes below its value, which stands out where the interval lies on one side of 0."""
    text = "–" if text == "-" else text if words else MINUS.sub("\u2212", text)
    value, bracket, reach = text.partition(" [")
    if words or not bracket or not reach.endswith("]"):
        return f"<td{' class=words' if words else ''}>{escape(text)}</td>"
    signs = [end.strip()[:1] for end in reach[:-1].split(",")]
    one_side = signs in (["+", "+"], ["\u2212", "\u2212"]) and any(digit in reach for digit in "123456789")
    found = value[:1] in "+\u2212" and one_side
    return f"<td{' class=found' if found else ''}>{escape(value)}<small>[{escape(reach)}</small></td>"
