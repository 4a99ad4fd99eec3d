"""A plot: its drawings for wide and narrow screens, the same in words, and the figures it is drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from experiments.charts.svg import SERIES, Drawing

FULL, HALF, NARROW = 974.0, 461.0, 330.0  # pixels
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Plot:
    """One figure of a page.

    Attributes:
        name: unique on its page; the key of its data. title: what is shown. note: how to read it.
        alt: what a reader would see, in words. columns, rows: its data.
        wide, narrow: the drawings. full: as wide as the page, else half of it. key: names of the series, by number.
    """

    name: str
    title: str
    note: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    wide: str
    narrow: str
    full: bool
    key: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


def drawn(draw: Callable[[float], Drawing], full: bool) -> tuple[str, str]:
    """The drawings of a plot: `draw` makes one of a given width."""
    return draw(FULL if full else HALF).svg("wide"), draw(NARROW).svg("narrow")


def key_html(names: Sequence[str]) -> str:
    """The legend: the shape and colour of every series with its name; nothing for a single one."""
    if len(names) < 2:
        return ""
    items = []
    for number, name in enumerate(names):
        drawing = Drawing(14, 12)
        drawing.mark(7, 6, number)
        items.append(f'<li class="k{number % SERIES}">{drawing.svg("swatch")}{escape(name)}</li>')
    return f'<ul class="key">{"".join(items)}</ul>'


def shown(value: Value) -> str:
    """A figure of the table below a plot, as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "\u2212")
    if isinstance(value, float):
        text = f"{value:,.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.3g}"
        return text.replace("-", "\u2212")
    return value
