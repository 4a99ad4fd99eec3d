"""Scales put values where they belong, and ticks are round, inside, and told apart."""

import re

import pytest

from experiments.charts.scale import Scale, short
from experiments.charts.svg import Drawing, text_width


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (-3e-4, 8e-4, False), (17, 70_000, True), (3, 4, True)]
)
def test_ticks_are_inside_ascending_and_have_different_labels(low: float, high: float, log: bool):
    scale = Scale(low, high, 0, 100, log)
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 9 and ticks == sorted(set(ticks))
    assert all(low <= t <= high for t in ticks)
    labels = scale.labels(ticks)
    assert len(set(labels)) == len(ticks)
    for tick, label in zip(ticks, labels, strict=True):
        number = float(label.replace("\u2212", "-").replace(",", "").replace("k", "e3").replace("M", "e6"))
        assert number == pytest.approx(tick, rel=1e-6, abs=1e-12)


def test_a_format_gets_the_digits_that_its_ticks_need():
    scale = Scale(0, 0.011, 0, 100)
    assert scale.labels([0, 0.0025, 0.005, 0.0075], "{:+.3f}") == ["0.0000", "+0.0025", "+0.0050", "+0.0075"]
    assert scale.labels([-0.05, 0.1], "{:+.0%}") == ["\u22125%", "+10%"]
    assert scale.labels([0.025, 0.05], "{:.0%}") == ["2.5%", "5.0%"]


def test_a_label_at_the_edge_stays_inside():
    drawing = Drawing(100, 40)
    drawing.tick(1, 20, "0.6800")
    drawing.tick(50, 20, "0.6900")
    drawing.tick(99, 20, "0.7000")
    left, middle, right = (float(x) for x in re.findall(r'<text class="dim" x="([\d.]+)"', drawing.svg("wide")))
    half = text_width("0.6800") / 2
    assert left == pytest.approx(half, abs=0.1) and middle == 50 and right == pytest.approx(100 - half, abs=0.1)


def test_ends_and_ratios():
    log, plain = Scale(1, 100, 10, 110, log=True), Scale(-1, 1, 200, 0)
    assert log(1) == 10 and log(100) == 110 and log(10) == pytest.approx(60)
    assert plain(-1) == 200 and plain(0) == 100
    assert Scale.around([2.0, 2.0], 0, 1)(2.0) == pytest.approx(0.5)
    assert [t for t in Scale(0.5, 3.5, 0, 1).ticks(8, whole=True)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "step", "text"), [(0.0025, 0.0025, "0.0025"), (12_500, None, "12.5k"), (-0.5, 0.25, "\u22120.50")]
)
def test_short(value: float, step: float | None, text: str):
    assert short(value, step) == text


def test_values_that_differ_by_rounding_alone_stand_together():
    scale = Scale.around([0.1006, 0.1006 + 2e-17, 0.1006 + 1e-16], 0, 100)
    assert abs(scale(0.1006) - scale(0.1006 + 1e-16)) < 1e-6 and 0.08 < scale.low < 0.1 < scale.high < 0.12
    near = Scale.around([0.5, 0.5 + 1e-6], 0, 100)
    assert near(0.5 + 1e-6) - near(0.5) > 80
