"""Estimates with their intervals, one a line: figures of recipes, differences, lifts, slices."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.charts.plot import NARROW, Plot, drawn, shown
from experiments.charts.scale import Scale
from experiments.charts.svg import SERIES, Drawing, text_width, wrapped


@dataclass(frozen=True)
class Estimate:
    """A line's estimate in one series; low and high: its 95 % interval, None where there is none."""

    line: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""


def intervals(
    name: str,
    title: str,
    measure: str,
    estimates: Sequence[Estimate],
    note: str = "",
    form: str | None = None,
    base: float | None = 0.0,
    full: bool = False,
    series: Sequence[str] | None = None,
    ends: tuple[str, str] = ("95 % low", "95 % high"),
) -> Plot:
    """A plot of estimates, in their lines' order of first mention.

    measure: the axis. form: format of its figures, such as "{:+.1%}".
    base: the axis shows this value, with a line there.
    ends: what the ends of an interval are.
    """
    lines = list(dict.fromkeys(e.line for e in estimates))
    names = list(series) if series is not None else list(dict.fromkeys(e.series for e in estimates))

    def draw(width: float) -> Drawing:
        return _draw(measure, estimates, lines, names, form, base, width)

    wide, narrow = drawn(draw, full)
    many = len(names) > 1
    columns = ("line", *(("series",) if many else ()), measure, *ends)
    rows = tuple((e.line, *((e.series,) if many else ()), e.value, e.low, e.high) for e in estimates)
    said = "; ".join(f"{e.line}{f', {e.series}' if many else ''}: {told(e, form)}" for e in estimates)
    return Plot(name, title, note, f"{title}. {measure}. {said}.", columns, rows, wide, narrow, full, tuple(names))


def told(estimate: Estimate, form: str | None) -> str:
    """An estimate with its interval, as text."""

    def text(value: float) -> str:
        return form.format(value).replace("-", "\u2212") if form else shown(value)

    if estimate.low is None or estimate.high is None:
        return text(estimate.value)
    return f"{text(estimate.value)} [{text(estimate.low)}, {text(estimate.high)}]"


def _draw(
    measure: str,
    estimates: Sequence[Estimate],
    lines: list[str],
    names: list[str],
    form: str | None,
    base: float | None,
    width: float,
) -> Drawing:
    narrow = width <= NARROW
    beside = 0.0 if narrow else min(0.36 * width, 14 + max(text_width(line) for line in lines))
    words = {line: wrapped(line, width - 8 if narrow else beside - 12, lines=2) for line in lines}
    counts = {line: sum(e.line == line for e in estimates) for line in lines}
    values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None]
    values += [] if base is None else [base]
    scale = Scale.around(values, beside + 8, width - 14, margin=0.06)
    above = {line: 15 * len(words[line]) if narrow else 0 for line in lines}
    tall = {n: above[n] + max(20 * counts[n], 0 if narrow else 15 * len(words[n])) + 8 for n in lines}
    top, height = 24.0, 24 + sum(tall.values()) + 26
    out, bottom = Drawing(width, height), height - 26
    ticks = scale.ticks(4 if width <= 500 else 7)
    labels = scale.labels(ticks, form)
    for tick, label in zip(ticks, labels, strict=True):
        out.line(scale(tick), top - 4, scale(tick), bottom, "grid")
        out.tick(scale(tick), bottom + 17, label)
    if base is not None:
        out.line(scale(base), top - 4, scale(base), bottom, "zero")
    out.text(beside + 8 if not narrow else 0, 13, measure, "dim")
    y = top
    for number, line in enumerate(lines):
        if number and not narrow:
            out.line(0, y, width, y, "grid")
        for row, text in enumerate(words[line]):
            start = y + 13 if narrow else y + tall[line] / 2 + 4.5 - 7.5 * (len(words[line]) - 1)
            out.text(0, start + 15 * row, text, "ink")
        first = y + above[line] + 4
        mine = [e for e in estimates if e.line == line]
        space = (y + tall[line] - first - 4) / len(mine)
        for place, e in enumerate(mine):
            _estimate(out, e, first + space * (place + 0.5), names.index(e.series), scale, form)
        y += tall[line]
    return out


def _estimate(out: Drawing, e: Estimate, y: float, series: int, scale: Scale, form: str | None) -> None:
    if e.low is not None and e.high is not None:
        out.line(scale(e.low), y, scale(e.high), y, f"whisker wide-stroke s{series % SERIES}")
    out.mark(scale(e.value), y, series, f"{e.line}{f', {e.series}' if e.series else ''}: {told(e, form)}", 4.6)
