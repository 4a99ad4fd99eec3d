"""Curves and points in a plane: training curves, calibration, lift over days, fits, scatters with their intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from experiments.charts.plot import NARROW, Plot, drawn, shown
from experiments.charts.scale import Scale
from experiments.charts.svg import SERIES, Drawing, fitted, text_width


@dataclass(frozen=True)
class Curve:
    """A line of a series. x, y: (n,). low, high: (n,) of its band, or empty. marks: a mark at every point."""

    series: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marks: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a series with its intervals (None: none) and a name beside it."""

    series: str
    x: float
    y: float
    name: str = ""
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None


@dataclass(frozen=True)
class Plane:
    """Axes. x, y: what they measure. *_form: format of the ticks. zero: a line at y = 0. diagonal: a line at y = x."""

    x: str
    y: str
    x_log: bool = False
    y_log: bool = False
    x_form: str | None = None
    y_form: str | None = None
    zero: bool = False
    diagonal: bool = False
    include_y: tuple[float, ...] = field(default=())


def xy(
    name: str,
    title: str,
    plane: Plane,
    curves: Sequence[Curve] = (),
    points: Sequence[Point] = (),
    note: str = "",
    full: bool = False,
    series: Sequence[str] | None = None,
) -> Plot:
    """A plot of curves and points. series: the order of their colours (None: of first mention)."""
    names = list(series) if series is not None else list(dict.fromkeys(part.series for part in (*curves, *points)))

    def draw(width: float) -> Drawing:
        return _draw(plane, curves, points, names, width)

    wide, narrow = drawn(draw, full)
    columns, rows = _table(plane, curves, points)
    alt = _alt(title, plane, curves, points)
    return Plot(name, title, note, alt, columns, rows, wide, narrow, full, tuple(names))


def _draw(plane: Plane, curves: Sequence[Curve], points: Sequence[Point], names: list[str], width: float) -> Drawing:
    height = 250.0 if width <= NARROW else 300.0 if width < 600 else 360.0
    x_values, y_values = list(_xs(curves, points)), [*_ys(curves, points), *plane.include_y]
    if plane.zero:
        y_values.append(0.0)
    if plane.diagonal:
        x_values, y_values = x_values + y_values, x_values + y_values
    top, bottom = 32.0, height - 44.0
    y_scale = Scale.around(y_values, bottom, top, plane.y_log, 0.06)
    y_ticks = y_scale.ticks(5)
    y_labels = y_scale.labels(y_ticks, plane.y_form)
    left = 12 + max((text_width(t) for t in y_labels), default=0)
    margin = 0.03 if not points or curves else 0.08
    x_scale = Scale.around(x_values, left + 4, width - 12, plane.x_log, margin)
    whole = all(isinstance(x, int) for c in curves for x in c.x) and not points
    x_ticks = x_scale.ticks(4 if width <= NARROW else 6, whole)
    x_labels = x_scale.labels(x_ticks, plane.x_form)
    out = Drawing(width, height)
    for tick, label in zip(y_ticks, y_labels, strict=True):
        out.line(left, y_scale(tick), width - 8, y_scale(tick), "grid")
        out.text(left - 7, y_scale(tick) + 4, label, "dim", "end")
    for tick, label in zip(x_ticks, x_labels, strict=True):
        out.line(x_scale(tick), bottom, x_scale(tick), bottom + 4, "grid")
        out.tick(x_scale(tick), bottom + 18, label)
    out.text(0, 13, fitted(plane.y, width), "ink")
    out.text(width - 8, height - 6, fitted(plane.x, width), "ink", "end")
    if plane.zero and not plane.y_log:
        out.line(left, y_scale(0), width - 8, y_scale(0), "zero")
    if plane.diagonal:
        ends = max(x_scale.low, y_scale.low), min(x_scale.high, y_scale.high)
        out.curve([(x_scale(v), y_scale(v)) for v in ends], "zero dashed")
    for curve in curves:
        _curve(out, curve, names.index(curve.series) % SERIES, x_scale, y_scale)
    for point in points:
        _point(out, point, names.index(point.series), plane, x_scale, y_scale)
    _names(out, points, x_scale, y_scale, width)
    return out


def _curve(out: Drawing, curve: Curve, series: int, x: Scale, y: Scale) -> None:
    if len(curve.low):
        edge = [(x(a), _inside(y, b)) for a, b in zip(curve.x, curve.low, strict=True)]
        edge += [(x(a), _inside(y, b)) for a, b in zip(curve.x, curve.high, strict=True)][::-1]
        out.area(edge, f"band s{series}")
    path = [(x(a), y(b)) for a, b in zip(curve.x, curve.y, strict=True)]
    if len(path) > 1:
        out.curve(path, f"line s{series}" + (" dashed" if curve.dashed else ""))
    if curve.marks or len(path) == 1:
        for (px, py), a, b in zip(path, curve.x, curve.y, strict=True):
            out.mark(px, py, series, f"{curve.series}: {shown(float(a))}, {shown(float(b))}", 3.4)


def _inside(scale: Scale, value: float) -> float:
    return scale(max(value, scale.low) if scale.log else value)


def _point(out: Drawing, point: Point, series: int, plane: Plane, x: Scale, y: Scale) -> None:
    px, py, look = x(point.x), y(point.y), f"whisker s{series % SERIES}"
    if point.x_low is not None and point.x_high is not None:
        out.line(x(point.x_low), py, x(point.x_high), py, look)
    if point.y_low is not None and point.y_high is not None:
        out.line(px, _inside(y, point.y_low), px, _inside(y, point.y_high), look)
    told = f"{point.name or point.series}: {plane.x} {shown(point.x)}, {plane.y} {shown(point.y)}"
    out.mark(px, py, series, told)


def _names(out: Drawing, points: Sequence[Point], x: Scale, y: Scale, width: float) -> None:
    """Names beside their points, each where it covers the least of what stands already."""
    taken = [(x(p.x) - 5, y(p.y) - 5, x(p.x) + 5, y(p.y) + 5) for p in points]
    for point in points:
        if not point.name:
            continue
        wide, px, py = text_width(point.name, 11), x(point.x), y(point.y)
        spots = [(px + 9, py + 4), (px - 9 - wide, py + 4), (px - wide / 2, py - 9), (px - wide / 2, py + 18)]
        spots += [(px + 7, py - 8), (px + 7, py + 16), (px - 7 - wide, py - 8), (px - 7 - wide, py + 16)]
        boxes = [(sx, sy - 10, sx + wide, sy + 3) for sx, sy in spots]
        costs = [sum(_overlap(b, t) for t in taken) + 50 * _outside(b, width, out.height) for b in boxes]
        best = costs.index(min(costs))
        if costs[best] > 0.35 * wide * 13:
            continue  # no room; the table below has the name
        taken.append(boxes[best])
        out.text(spots[best][0], spots[best][1], point.name, "label", size=11)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: tuple[float, float, float, float], width: float, height: float) -> float:
    return (
        max(0.0, 2 - box[0]) + max(0.0, box[2] + 2 - width) + max(0.0, 18 - box[1]) + max(0.0, box[3] - (height - 44))
    )


def _xs(curves: Sequence[Curve], points: Sequence[Point]) -> Iterator[float]:
    for curve in curves:
        yield from map(float, curve.x)
    for p in points:
        yield from (v for v in (p.x, p.x_low, p.x_high) if v is not None)


def _ys(curves: Sequence[Curve], points: Sequence[Point]) -> Iterator[float]:
    for curve in curves:
        for values in (curve.y, curve.low, curve.high):
            yield from map(float, values)
    for p in points:
        yield from (v for v in (p.y, p.y_low, p.y_high) if v is not None)


def _table(plane: Plane, curves: Sequence[Curve], points: Sequence[Point]):
    bands = any(len(c.low) for c in curves) or any(p.y_low is not None for p in points)
    reach = any(p.x_low is not None for p in points)
    named = any(p.name for p in points)
    columns = ["series", *["name"] * named, plane.x, plane.y]
    columns += [f"{plane.y}, low", f"{plane.y}, high"] * bands + [f"{plane.x}, low", f"{plane.x}, high"] * reach
    rows = []
    for c in curves:
        lows, highs = (list(c.low), list(c.high)) if len(c.low) else ([None] * len(c.x), [None] * len(c.x))
        for a, b, low, high in zip(c.x, c.y, lows, highs, strict=True):
            row = [c.series, *[None] * named, _plain(a), _plain(b)]
            rows.append((*row, *[_plain(low), _plain(high)] * bands, *[None, None] * reach))
    for p in points:
        row = [p.series, *[p.name] * named, p.x, p.y, *[p.y_low, p.y_high] * bands, *[p.x_low, p.x_high] * reach]
        rows.append(tuple(row))
    return tuple(columns), tuple(rows)


def _plain(value: float | None) -> float | int | None:
    if value is None or isinstance(value, int):
        return value
    return float(value)


def _alt(title: str, plane: Plane, curves: Sequence[Curve], points: Sequence[Point]) -> str:
    """What a reader would see: of every curve where it starts and ends, of the points how many and their range."""
    parts = [f"{title}. {plane.y} against {plane.x}."]
    for c in curves:
        if len(c.x) and all(map(math.isfinite, (c.y[0], c.y[-1]))):
            ends = f"{shown(float(c.y[0]))} at {shown(c.x[0])}"
            if len(c.x) > 1:
                ends = f"from {ends} to {shown(float(c.y[-1]))} at {shown(c.x[-1])}"
            parts.append(f"{c.series}: {ends}.")
    if points:
        high, low = max(points, key=lambda p: p.y), min(points, key=lambda p: p.y)
        parts.append(f"{len(points)} points, from {shown(low.y)} ({low.name or low.series}) ")
        parts[-1] += f"to {shown(high.y)} ({high.name or high.series})."
    return " ".join(parts)
