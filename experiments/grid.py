"""A grid of training runs: every cell is a run directory, so that what is finished is never trained again.

    ROOT/NAME/s0/          the run directory of recipe NAME with seed 0 (see ranker/run_folder.py)
    ROOT/NAME/s0.yaml      the recipe it was started with
    ROOT/NAME/s0.log       what `moon train` printed
    ROOT/NAME/s0.failed    the one line that a failed cell ended with; gone once the cell succeeds

Each cell is trained by `moon train --resume` in a process of its own: one that fails, or is killed for its memory,
is shown as failed and the others go on; one that was cut off goes on from its last checkpoint. A study that needs
runs (ablation, exchange rate, scaling) makes cells, calls `Grid(...).run(jobs)` and reads the run directories.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_text
from features.store import Store
from ranker.config import Recipe
from ranker.run_folder import RunFolder

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Cell:
    """One run. recipe: names the cell with its seed. data: prepared dataset. stores: by the recipe's vector names."""

    recipe: Recipe
    data: Path
    stores: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """NAME/sSEED."""
        return f"{self.recipe.name}/s{self.recipe.seed}"


@dataclass(frozen=True)
class Outcome:
    """A cell that was asked for: its run, and the line it failed with (None: finished)."""

    cell: Cell
    run: RunFolder
    error: str | None


class Grid:
    """Cells under one root."""

    def __init__(self, root: Path, cells: Sequence[Cell], check: bool = True) -> None:
        """Raises InputError for two cells of one name and, with `check`, for a finished run of other settings, data or
        vectors than its cell's."""
        self.root, self.cells = root, list(cells)
        names = [cell.name for cell in cells]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"two cells of the grid are called {twice[0]!r}")
        for cell in cells if check else ():
            if self.finished(cell):
                _require_same(self.folder(cell), cell)

    def folder(self, cell: Cell) -> RunFolder:
        """The run directory of a cell."""
        return RunFolder(self.root / cell.name)

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's run is complete."""
        run = self.folder(cell)
        return (run.root / "meta.json").is_file() and bool(run.meta().get("finished"))

    def run(self, jobs: int = 1) -> list[Outcome]:
        """Train what is not finished, `jobs` processes at a time; one outcome a cell, in the cells' order.

        SIGINT or SIGTERM is passed on to the runs, which save their state, and then raises KeyboardInterrupt.
        """
        waiting = [cell for cell in self.cells if not self.finished(cell)]
        running: list[_Running] = []
        shown = _Shown(len(self.cells), len(self.cells) - len(waiting))
        with _interruptible():
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        running.append(_Running(self, waiting.pop(0)))
                    for one in [one for one in running if one.ended()]:
                        running.remove(one)
                        shown.cell(one)
                    time.sleep(POLL_SECONDS if running else 0)
            finally:
                for one in running:
                    one.stop()
        return [Outcome(cell, self.folder(cell), self.error(cell)) for cell in self.cells]

    def error(self, cell: Cell) -> str | None:
        """The line with which the cell failed last; None if it is finished or was never tried."""
        path = self.beside(cell, "failed")
        return path.read_text().strip() if path.is_file() else None

    def beside(self, cell: Cell, kind: str) -> Path:
        """The file of a cell beside its run directory: yaml, log or failed."""
        return self.root / f"{cell.name}.{kind}"

    def seconds(self, cell: Cell, rows_per_second: float) -> float:
        """Expected seconds of a cell: of finished ones of the same recipe, else of any, else rows / rows_per_second."""
        known = [(c, self.folder(c).meta()["seconds"]) for c in self.cells if self.finished(c)]
        same = [seconds for c, seconds in known if c.recipe.name == cell.recipe.name]
        found = same or [seconds for _, seconds in known]
        if found:
            return sum(found) / len(found)
        counts = Dataset(cell.data).meta["counts"]
        return (counts["train"] * cell.recipe.train.epochs + counts["valid"] + counts["test"]) / rows_per_second

    def describe(self, jobs: int, rows_per_second: float) -> str:
        """The grid in words: one line a recipe with its seeds and their state, and the time that is left."""
        by_name: dict[str, list[Cell]] = {}
        for cell in self.cells:
            by_name.setdefault(cell.recipe.name, []).append(cell)
        width = max(map(len, by_name), default=0)
        lines, left = [], 0.0
        for name, cells in by_name.items():
            done = [cell for cell in cells if self.finished(cell)]
            left += sum(self.seconds(cell, rows_per_second) for cell in cells if cell not in done)
            failed = sum(self.error(cell) is not None for cell in cells)
            state = f"{len(done)} of {len(cells)} finished" + (f", {failed} failed before" if failed else "")
            lines.append(f"  {name:<{width}}  {state}")
        lines.append(f"{len(self.cells)} cells; about {clock(left / jobs)} left with --jobs {jobs}")
        return "\n".join(lines)


class _Running:
    """A cell's process."""

    def __init__(self, grid: Grid, cell: Cell) -> None:
        self.grid, self.cell, self.started = grid, cell, time.monotonic()
        self.error: str | None = None
        config = grid.beside(cell, "yaml")
        write_text(config, yaml.safe_dump(cell.recipe.model_dump(mode="json"), sort_keys=False))
        words = ["train", config, "--data", cell.data, "--out", grid.folder(cell).root, "--resume"]
        for name, store in cell.stores.items():
            words += ["--store", f"{name}={store}"]
        self._log: IO[bytes] = grid.beside(cell, "log").open("wb")
        command = [sys.executable, "-m", "moon", *map(str, words)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True)

    def ended(self) -> bool:
        """Whether the process is over; then its outcome is on disk."""
        status = self._process.poll()
        if status is None:
            return False
        self._log.close()
        failed = self.grid.beside(self.cell, "failed")
        if status == 0:
            failed.unlink(missing_ok=True)
        else:
            self.error = _last_line(self.grid.beside(self.cell, "log"), status)
            write_text(failed, self.error + "\n")
        return True

    def stop(self) -> None:
        """Let the run save its state and end."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._log.close()


class _Shown:
    """One line a finished cell on stderr, with the time left at the pace so far."""

    def __init__(self, cells: int, done: int) -> None:
        self.cells, self.done, self.before, self._start = cells, done, done, time.monotonic()
        if done:
            print(f"grid: {done} of {cells} cells are finished already", file=sys.stderr, flush=True)

    def cell(self, one: _Running) -> None:
        """Show a cell that has just ended."""
        self.done += 1
        seconds = time.monotonic() - self._start
        left = clock(seconds / (self.done - self.before) * (self.cells - self.done))
        took = clock(time.monotonic() - one.started)
        what = f"FAILED: {one.error}" if one.error else "done"
        print(f"grid {self.done}/{self.cells} {one.cell.name} {what} ({took}; about {left} left)", file=sys.stderr)
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _require_same(run: RunFolder, cell: Cell) -> None:
    """Raise InputError unless the finished run is of the cell's recipe, dataset and vectors."""
    meta = run.meta()
    found: dict[str, tuple[Any, Any]] = {
        "recipe": (run.recipe(), cell.recipe),
        "dataset": (meta["dataset"]["fingerprint"], Dataset(cell.data).fingerprint),
        "vectors": (
            {name: facts["fingerprint"] for name, facts in meta.get("stores", {}).items()},
            {name: Store(path).current.meta["fingerprint"] for name, path in cell.stores.items()},
        ),
    }
    for what, (then, now) in found.items():
        if then != now:
            raise InputError(
                f"{run.root}: a finished run of another {what} than the grid asks for; remove it or use another folder"
            )


def _last_line(log: Path, status: int) -> str:
    """What a failed process said last, or how it was killed."""
    if status < 0:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ended with status {status} and said nothing"


@contextmanager
def _interruptible():
    """SIGTERM raises KeyboardInterrupt inside, like SIGINT."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
