"""A waterfall: where one starts, what every step adds or takes, where one ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.charts.plot import NARROW, Plot, drawn, shown
from experiments.charts.scale import Scale
from experiments.charts.svg import Drawing, text_width, wrapped


@dataclass(frozen=True)
class Step:
    """A step with its own gain and the gain's 95 % interval (None: none)."""

    name: str
    gain: float
    low: float | None = None
    high: float | None = None


def waterfall(
    name: str,
    title: str,
    measure: str,
    start: tuple[str, float],
    steps: Sequence[Step],
    note: str = "",
    form: str = "{:+.4f}",
    level: str = "{:.4f}",
    full: bool = True,
) -> Plot:
    """A plot of steps from `start` (name, level). form, level: formats of gains and of levels."""

    def draw(width: float) -> Drawing:
        return _draw(measure, start, steps, form, level, width)

    wide, narrow = drawn(draw, full)
    at = start[1]
    rows: list[tuple[str, float | None, float | None, float | None, float]] = [(start[0], None, None, None, at)]
    for step in steps:
        at += step.gain
        rows.append((step.name, step.gain, step.low, step.high, at))
    said = "; ".join(f"{s.name} {form.format(s.gain)}" for s in steps)
    alt = f"{title}. {measure} starts at {level.format(start[1])} ({start[0]}); {said}; it ends at {level.format(at)}."
    columns = ("step", "gain", "95 % low", "95 % high", measure)
    return Plot(name, title, note, alt, columns, tuple(rows), wide, narrow, full)


def _draw(
    measure: str, start: tuple[str, float], steps: Sequence[Step], form: str, level: str, width: float
) -> Drawing:
    """Bars from left to right, one a row, so that names have room on any screen."""
    narrow = width <= NARROW
    names = [start[0], *(s.name for s in steps), "in the end"]
    beside = 0.0 if narrow else min(0.34 * width, 16 + max(map(text_width, names)))
    levels = [start[1]]
    for step in steps:
        levels.append(levels[-1] + step.gain)
    ends = [start[1] + v for v in (0.0,)]
    reach = [before + v for before, s in zip(levels, steps, strict=False) for v in (s.low, s.high) if v is not None]
    values = [*levels, *ends, *reach]
    room = (max(values) - min(values)) * 0.25 or abs(values[0]) * 0.1 or 1.0
    scale = Scale(min(values) - room * 0.6, max(values) + room, beside + 8, width - 10)
    words = [wrapped(n, width if narrow else beside - 14, lines=2) for n in names]
    tall = [(15 * len(w) + 28 if narrow else max(36, 15 * len(w) + 8)) for w in words]
    height = 24 + sum(tall) + 26
    out, y, bottom = Drawing(width, height), 24.0, height - 26
    ticks = scale.ticks(3 if narrow else 6)
    for tick, label in zip(ticks, scale.labels(ticks, level), strict=True):
        out.line(scale(tick), 20, scale(tick), bottom, "grid")
        out.tick(scale(tick), bottom + 17, label)
    out.text(beside + 8 if not narrow else 0, 13, measure, "dim")
    for row, (text, height_) in enumerate(zip(words, tall, strict=True)):
        for place, line in enumerate(text):
            first = y + 13 if narrow else y + height_ / 2 + 4.5 - 7.5 * (len(text) - 1)
            out.text(0, first + 15 * place, line, "ink")
        top = y + (15 * len(text) + 5 if narrow else height_ / 2 - 9)
        if row in (0, len(names) - 1):
            at = levels[0 if row == 0 else -1]
            out.box(scale(scale.low), top, scale(at) - scale(scale.low), 18, "total", f"{names[row]}: {shown(at)}", 2)
            out.text(scale(at) + 6, top + 13, level.format(at).replace("-", "\u2212"), "label strong")
        else:
            _step(out, steps[row - 1], levels[row - 1], scale, top, form)
        if row < len(names) - 1:
            after = levels[min(row, len(levels) - 1)]
            out.line(
                scale(after),
                top + 18,
                scale(after),
                y + height_ + (15 * len(words[row + 1]) + 5 if narrow else 9),
                "join",
            )
        y += height_
    return out


def _step(out: Drawing, step: Step, before: float, scale: Scale, top: float, form: str) -> None:
    a, b = scale(before), scale(before + step.gain)
    text = form.format(step.gain).replace("-", "\u2212")
    look = "gain" if step.gain >= 0 else "loss"
    out.box(min(a, b), top, max(abs(b - a), 1.5), 18, look, f"{step.name}: {text}", 2)
    right = max(a, b)
    if step.low is not None and step.high is not None:
        out.line(scale(before + step.low), top + 9, scale(before + step.high), top + 9, "whisker-ink")
        right = max(right, scale(before + step.high))
    out.text(right + 6, top + 13, text, "label strong")
