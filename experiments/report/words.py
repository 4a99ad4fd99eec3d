"""Differences and what they establish, in words."""


def judged(low: float, high: float) -> str:
    """What an interval of a difference establishes."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference established"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")
