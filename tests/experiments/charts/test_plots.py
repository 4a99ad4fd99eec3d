"""Plots hold the figures that they were given, in the drawing, in words and in the table."""

import re

import pytest

from experiments.charts.intervals import Estimate, intervals
from experiments.charts.waterfall import Step, waterfall
from experiments.charts.xy import Curve, Plane, Point, xy


def marks(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_points_stand_in_the_order_of_their_values():
    points = [Point("a", x, y, name) for x, y, name in ((1, 3, "up"), (10, 1, "down"), (100, 2, "mid"))]
    plot = xy("p", "Title", Plane("cost", "gain", x_log=True), points=points)
    for drawing in (plot.wide, plot.narrow):
        (ax, ay), (bx, by), (cx, cy) = marks(drawing)
        assert ay < cy < by and bx - ax == pytest.approx(cx - bx, abs=0.2)
    assert plot.rows == (("a", "up", 1, 3), ("a", "down", 10, 1), ("a", "mid", 100, 2))
    assert "3 points" in plot.alt and "down" in plot.alt


def test_a_curve_has_its_band_and_its_ends_in_words():
    curve = Curve("fit", [1, 2, 3], [0.1, 0.2, 0.4], [0.0, 0.1, 0.3], [0.2, 0.3, 0.5], marks=True)
    plot = xy("c", "Title", Plane("n", "y"), [curve])
    assert 'class="band s0"' in plot.wide and len(marks(plot.wide)) == 3
    assert plot.columns == ("series", "n", "y", "y, low", "y, high") and plot.rows[2] == ("fit", 3, 0.4, 0.3, 0.5)
    assert "from 0.1000 at 1 to 0.4000 at 3" in plot.alt


def test_intervals_are_drawn_from_low_to_high():
    estimates = [Estimate("one <b>", 0.2, 0.1, 0.3), Estimate("two", -0.1, -0.3, 0.1)]
    plot = intervals("i", "Title", "gain", estimates, form="{:+.1f}")
    whisker = re.findall(r'class="whisker wide-stroke s0" d="M([\d.]+) [\d.]+L([\d.]+)', plot.wide)
    (low, high), (low2, high2) = ([float(v) for v in pair] for pair in whisker)
    (x, _), (x2, _) = marks(plot.wide)
    assert x == pytest.approx((low + high) / 2, abs=0.1) and low2 < x2 < high2 and x2 < x
    assert "one &lt;b&gt;" in plot.wide and "<b>" not in plot.wide
    assert "two: \u22120.1 [\u22120.3, +0.1]" in plot.alt


def test_a_waterfall_ends_where_its_steps_lead():
    plot = waterfall("w", "Title", "AUC", ("start", 0.7), [Step("up", 0.02, 0.01, 0.03), Step("down", -0.005)])
    assert plot.rows[-1][-1] == pytest.approx(0.715) and "it ends at 0.7150" in plot.alt
    assert plot.wide.count('class="gain"') == 1 and plot.wide.count('class="loss"') == 1
    totals = [float(w) for w in re.findall(r'<rect class="total"[^>]* width="([\d.]+)"', plot.wide)]
    assert len(totals) == 2 and totals[1] > totals[0]
