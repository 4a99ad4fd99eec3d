"""A drawing as an <svg> element whose colours are classes of the page: one drawing serves light, dark and print.

Classes: ink, dim, grid, zero (lines and text); s0..s5 (series: stroke and fill by CSS variables); band, halo.
"""

from html import escape

SERIES = 6
FONT = 12.0
# Widths of Latin letters relative to the font size, for layout; a sans-serif's mean, erring to the wide side.
_NARROW, _WIDE = set("iljtfrI.,:;'|!()[] "), set("mwMW@%")


def text_width(text: str, size: float = FONT) -> float:
    """About how wide a text is, in pixels."""
    return size * sum(
        0.34 if c in _NARROW else 0.9 if c in _WIDE else 0.66 if c.isupper() or c.isdigit() else 0.6 for c in text
    )


def fitted(text: str, width: float, size: float = FONT) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, width: float, size: float = FONT, lines: int = 3) -> list[str]:
    """The text in at most so many lines of `width` pixels, the last one cut where it must be."""
    found, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and text_width(longer, size) > width:
            found.append(line)
            line = word
        else:
            line = longer
    found.append(line)
    if len(found) > lines:
        found = [*found[: lines - 1], " ".join(found[lines - 1 :])]
    return [fitted(line, width, size) for line in found]


class Drawing:
    """An SVG under construction; coordinates are pixels from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        """A straight line. look: its classes."""
        self._parts.append(f'<path class="{look}" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>')

    def curve(self, points: list[tuple[float, float]], look: str) -> None:
        """A line through points."""
        self._parts.append(f'<path class="{look}" d="M{"L".join(f"{_n(x)} {_n(y)}" for x, y in points)}"/>')

    def area(self, points: list[tuple[float, float]], look: str) -> None:
        """A filled polygon."""
        self._parts.append(f'<path class="{look}" d="M{"L".join(f"{_n(x)} {_n(y)}" for x, y in points)}Z"/>')

    def box(
        self, x: float, y: float, width: float, height: float, look: str, told: str = "", round_: float = 0
    ) -> None:
        """A rectangle. told: what the pointer over it tells."""
        corner = f' rx="{_n(round_)}"' if round_ else ""
        shape = f'<rect class="{look}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{corner}'
        self._parts.append(f"{shape}><title>{escape(told)}</title></rect>" if told else f"{shape}/>")

    def mark(self, x: float, y: float, series: int, told: str = "", size: float = 4.2) -> None:
        """A point in the colour and the shape of its series."""
        title = f"<title>{escape(told)}</title>" if told else ""
        look = f'class="mark s{series % SERIES}"'
        if series % 4 == 0:
            self._parts.append(f'<circle {look} cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}">{title}</circle>')
            return
        r = size * (1.0, 0.95, 1.25, 1.3)[series % 4]
        corners = {
            1: [(-r, -r), (r, -r), (r, r), (-r, r)],
            2: [(0, -r), (r, r * 0.8), (-r, r * 0.8)],
            3: [(0, -r), (r, 0), (0, r), (-r, 0)],
        }[series % 4]
        path = "L".join(f"{_n(x + dx)} {_n(y + dy)}" for dx, dy in corners)
        self._parts.append(f'<path {look} d="M{path}Z">{title}</path>')

    def text(
        self, x: float, y: float, text: str, look: str = "ink", anchor: str = "start", size: float = FONT, turn: int = 0
    ) -> None:
        """A text with its baseline at y. anchor: start, middle or end."""
        turned = f' transform="rotate({turn} {_n(x)} {_n(y)})"' if turn else ""
        sized = f' font-size="{_n(size)}"' if size != FONT else ""
        at = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{look}" {at}{sized}{turned}>{escape(text)}</text>')

    def tick(self, x: float, y: float, label: str) -> None:
        """A tick's label, in the middle over x or as near as the drawing's edges let it."""
        half = text_width(label) / 2
        self.text(min(max(x, half), self.width - half), y, label, "dim", "middle")

    def svg(self, look: str) -> str:
        """The element. It is hidden from screen readers: the figure around it says in words what it shows."""
        size = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        return f'<svg class="{look}" {size} aria-hidden="true" focusable="false">{"".join(self._parts)}</svg>'


def _n(value: float) -> str:
    """A coordinate with at most one decimal."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
