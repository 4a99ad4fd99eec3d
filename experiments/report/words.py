"""Differences and what they establish, in words."""


def judged(low: float, high: float) -> str:
    """What an interval of a difference establishes."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference established"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def slice_title(name: str) -> str:
    """A slice of the rows: history_1_9 is "history 1 to 9"."""
    words = name.split("_")
    if words[0] == "history" and len(words) == 3 and words[2].isdigit():
        words.insert(2, "to")
    return " ".join(words)
