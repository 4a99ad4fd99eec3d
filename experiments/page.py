"""A self-contained page: tables as HTML and markdown, figures as inline SVG."""

import io
from dataclasses import dataclass
from html import escape

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}p{max-width:46em}"""


@dataclass(frozen=True)
class Table:
    """A titled table. note: a paragraph above it. head: the columns. rows: cells as text."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        parts = [f"## {self.title}", self.note, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join(part for part in parts if part)

    def html(self) -> str:
        """As HTML."""
        cells = [_row("th", self.head), *(_row("td", row) for row in self.rows)]
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f"<h2>{escape(self.title)}</h2>{note}<table>{''.join(cells)}</table>"


def page(title: str, body: str) -> str:
    """A page without links to anything outside."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"{head}{body}</html>\n"


def svg(figure: Figure) -> str:
    """A figure as inline SVG, the same for the same figure; the figure is closed."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "moon"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    _, start, rest = text.getvalue().partition("<svg")
    return start + rest


def cell(value: dict[str, float | None], form: str = "{:+.1%}") -> str:
    """An estimate {value, low, high} with its interval."""
    numbers = [value["value"], value["low"], value["high"]]
    if numbers[0] is None:
        return "-"
    if None in numbers:
        return form.format(numbers[0])
    middle, low, high = (form.format(n) for n in numbers)
    return f"{middle} [{low}, {high}]"


def _row(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"
