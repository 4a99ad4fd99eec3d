"""Progress on stderr: one line that renews itself on a terminal, a line every ten seconds in a log."""

import sys
import time


class Progress:
    """Counts rows of a named piece of work and shows the rate and, with a total, the share done and the time left."""

    def __init__(self, what: str, total: int | None = None, unit: str = "rows") -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def add(self, rows: int) -> None:
        """Record `rows` more; show if it is time."""
        self.done += rows
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._terminal else 10):
            self._shown = now
            self._show("\r\x1b[K" if self._terminal else "", "" if self._terminal else "\n")

    def close(self) -> None:
        """Show the final line."""
        self._show("\r\x1b[K" if self._terminal else "", "\n")

    def _show(self, before: str, after: str) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        of, left = "", ""
        if self.total:
            of = f" of {self.total:,}"
            if 0 < self.done < self.total:
                left = f", {_duration(seconds / self.done * (self.total - self.done))} left"
        rate = self.done / seconds
        shown = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"
        line = f"{self.what}: {self.done:,}{of} {self.unit}, {shown} {self.unit}/s{left}"
        print(f"{before}{line}", end=after, file=sys.stderr)
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    """Readable in the two largest units."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"
