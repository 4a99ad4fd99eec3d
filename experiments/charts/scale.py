"""From numbers to places on paper: linear and logarithmic scales, and ticks that people like to read."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A scale from [low, high] to the pixels [start, stop]; log: equal ratios are equal distances (low > 0)."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, stop: float, log: bool = False, margin: float = 0.05
    ) -> "Scale":
        """A scale that shows all finite values with some margin; values equal but for rounding get room around them."""
        found = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        if log:
            ratio = (high / low) ** margin if high > low else 2.0
            return cls(low / ratio, high * ratio, start, stop, True)
        apart = high - low > 1e-9 * max(abs(low), abs(high))
        reach = (high - low) * margin if apart else max(abs(high) * 0.1, 1e-3)
        return cls(low - reach, high + reach, start, stop)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, about: int, whole: bool = False) -> list[float]:
        """About so many round values inside the scale, ascending; whole: whole numbers only."""
        found = _log_ticks(self.low, self.high, about) if self.log else _ticks(self.low, self.high, about)
        return [t for t in found if abs(t - round(t)) < 1e-9] if whole else found

    def labels(self, ticks: list[float], form: str | None = None) -> list[str]:
        """The ticks as text: by a format such as "{:+.1%}", with more digits where it rounds, or with as many as tell
        them apart."""
        if form is not None:
            form = _exact(form, ticks)
            return [form.format(t).lstrip("" if t else "+").replace("-", "\u2212") for t in ticks]
        return [short(t, _step(ticks)) for t in ticks] if not self.log else [short(t) for t in ticks]


def short(value: float, step: float | None = None) -> str:
    """A number as a tick: with the digits that a step of `step` needs, else with three that count; k and M."""
    if abs(value) >= 10_000:
        unit, letter = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
        return short(value / unit, step and step / unit) + letter
    text = f"{value:,.{_digits(step or abs(value) / 100 or 1.0)}f}"
    if step is None and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "\u2212") if float(text.replace(",", "")) else "0"


def _exact(form: str, ticks: list[float]) -> str:
    """The format with as many decimals as the ticks need, at most 6."""
    found = re.search(r"\.(\d)([f%])", form)
    if found is None:
        return form
    digits, unit = int(found[1]), 100 if found[2] == "%" else 1
    while digits < 6 and any(abs(round(t * unit, digits) - t * unit) > 1e-9 for t in ticks):
        digits += 1
    return form.replace(found[0], f".{digits}{found[2]}")


def _digits(step: float) -> int:
    """Decimals that a step needs to be told: 2.5 needs one, .002 three."""
    digits = max(0, min(6, -math.floor(math.log10(step) + 1e-9)))
    return digits if abs(step * 10**digits - round(step * 10**digits)) < 1e-6 else digits + 1


def _step(ticks: list[float]) -> float:
    return ticks[1] - ticks[0] if len(ticks) > 1 else abs(ticks[0]) / 10 or 1.0 if ticks else 1.0


def _ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for nice in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), tuple(map(float, range(1, 10)))):
        inside = [n * 10.0**p for p in powers for n in nice if low <= n * 10.0**p <= high]
        if len(inside) <= max(about, 2) or not found:
            found = inside
    return found if len(found) > 1 else _ticks(low, high, about)
