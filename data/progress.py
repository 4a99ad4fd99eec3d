"""Progress on stderr: one line that renews itself on a terminal, a line every ten seconds in a log."""

import sys
import time


class Progress:
    """Counts rows of a named piece of work and shows rate and, with a total, the share done."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
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
        of = f" of {self.total:,}" if self.total else ""
        print(
            f"{before}{self.what}: {self.done:,}{of} rows, {self.done / seconds:,.0f} rows/s",
            end=after,
            file=sys.stderr,
        )
        sys.stderr.flush()
