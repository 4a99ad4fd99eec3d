"""A grid of training runs: every cell is a run directory, so that what is finished is never trained again.

    ROOT/NAME/s0/          the run directory of recipe NAME with seed 0 (see ranker/run_folder.py)
    ROOT/NAME/s0.yaml      the recipe it was started with
    ROOT/NAME/s0.log       what `moon train` printed
    ROOT/NAME/s0.failed    the one line that a failed cell ended with; gone once the cell succeeds

Each cell is trained by `moon train --resume` in a process of its own: one that fails, or is killed for its memory,
is shown as failed and the others go on; one that was cut off goes on from its last checkpoint. With jobs = 0 cells are
trained here, one after the other, which saves every cell's start. An array of machines that see one file system shares
a grid by shards (`Shard`). A study that needs runs makes cells, calls `Grid(...).run(jobs)` and reads the run
directories.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import yaml

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_text
from experiments.grid_check import require_same
from ranker.config import Recipe
from ranker.run_folder import RunFolder

POLL_SECONDS = 0.2
OTHERS = "another shard's, and not finished yet"


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        recipe: names the cell with its seed.
        data: prepared dataset.
        stores: by the recipe's vector names. encoders: those that end_to_end vectors start from, in the same way.
        cache: folder for what the encoders' frozen parts make of items, shared by the cells.
    """

    recipe: Recipe
    data: Path
    stores: dict[str, Path] = field(default_factory=dict)
    encoders: dict[str, Path] = field(default_factory=dict)
    cache: Path | None = None

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


@dataclass(frozen=True)
class Shard:
    """Every `of`-th cell from the `number`-th on is this process's; the others are another one's."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """From I/N (I from 0), or `auto`: by SLURM_ARRAY_TASK_ID and _COUNT, or by torchrun's RANK and WORLD_SIZE (the
        runs do not see these then).

        Raises InputError for anything else, or where `auto` finds no array.
        """
        if text is None:
            return cls()
        if text == "auto":
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            for number, of in (("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"), ("RANK", "WORLD_SIZE")):
                if number in os.environ and of in os.environ:
                    found = cls(int(os.environ[number]) - (first if "SLURM" in number else 0), int(os.environ[of]))
                    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                        os.environ.pop(name, None)
                    return found
            raise InputError("--shard auto: neither a Slurm array (SLURM_ARRAY_TASK_ID) nor torchrun (RANK) is here")
        number, slash, of = text.partition("/")
        if not (slash and number.isdigit() and of.isdigit() and int(number) < int(of)):
            raise InputError(f"--shard {text}: give I/N with I from 0 to N - 1, such as 0/4, or auto")
        return cls(int(number), int(of))

    def mine(self, place: int) -> bool:
        """Whether the cell at a place of the grid is this shard's."""
        return place % self.of == self.number


ALL = Shard()
NOTHING = Shard(1, 1)  # no cell is its own: it reads what the others finished


def grid_flags(parser: argparse.ArgumentParser, jobs: int = 0) -> None:
    """The options of every command that runs a grid: --jobs (default: `jobs`) and --shard."""
    what = "runs at a time, one process each; 0: one after the other in this process, whose peak memory is then that "
    what += f"of all of them so far (default {jobs})"
    parser.add_argument("--jobs", type=int, default=jobs, help=what)
    what = "do every N-th cell from I on (I from 0); auto: by Slurm's array or torchrun. The last one writes the report"
    parser.add_argument("--shard", metavar="I/N", help=what)


class Grid:
    """Cells under one root."""

    def __init__(self, root: Path, cells: Sequence[Cell], check: bool = True) -> None:
        """Raises InputError for two cells of one name and, with `check`, for a finished run of other settings, data,
        vectors or encoders than its cell's."""
        self.root, self.cells = root, list(cells)
        names = [cell.name for cell in cells]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"two cells of the grid are called {twice[0]!r}")
        for cell in cells if check else ():
            if self.finished(cell):
                require_same(self.folder(cell), cell)

    def folder(self, cell: Cell) -> RunFolder:
        """The run directory of a cell."""
        return RunFolder(self.root / cell.name)

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's run is complete, the encoders that it trained included."""
        run = self.folder(cell)
        meta = run.meta() if (run.root / "meta.json").is_file() else {}
        return bool(meta.get("finished")) and set(cell.encoders) <= set(meta.get("trained_encoders", {}))

    def run(self, jobs: int = 1, shard: Shard = Shard()) -> list[Outcome]:
        """Train what is not finished, `jobs` processes at a time (0: here); one outcome a cell, in the cells' order.

        A cell of another shard that is not finished has that as its error. SIGINT or SIGTERM is passed on to the runs,
        which save their state, and then raises KeyboardInterrupt.
        """
        if jobs < 0:
            raise InputError(f"--jobs {jobs}: 0 or more")
        mine = [cell for place, cell in enumerate(self.cells) if shard.mine(place)]
        waiting = [cell for cell in mine if not self.finished(cell)]
        shown = _Shown(len(mine), len(mine) - len(waiting))
        self._run(waiting, jobs, shown) if jobs else self._run_here(waiting, shown)
        return [Outcome(cell, self.folder(cell), self._state(cell, cell in mine)) for cell in self.cells]

    def _state(self, cell: Cell, mine: bool) -> str | None:
        error = self.error(cell)
        return OTHERS if error is None and not mine and not self.finished(cell) else error

    def _run_here(self, waiting: list[Cell], shown: "_Shown") -> None:
        """One after the other, in this process."""
        for cell in waiting:
            started, failed = time.monotonic(), self.beside(cell, "failed")
            write_text(self.beside(cell, "yaml"), yaml.safe_dump(cell.recipe.model_dump(mode="json"), sort_keys=False))
            error = train_here(cell, self.folder(cell).root)
            if error is None:
                failed.unlink(missing_ok=True)
            else:
                write_text(failed, error + "\n")
            shown.cell(cell, started, error)

    def _run(self, waiting: list[Cell], jobs: int, shown: "_Shown") -> None:
        running: list[_Running] = []
        with _interruptible():
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        running.append(_Running(self, waiting.pop(0)))
                    for one in [one for one in running if one.ended()]:
                        running.remove(one)
                        shown.cell(one.cell, one.started, one.error)
                    time.sleep(POLL_SECONDS if running else 0)
            finally:
                for one in running:
                    one.stop()

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
        lines.append(f"{len(self.cells)} cells; about {clock(left / max(jobs, 1))} left with --jobs {jobs}")
        return "\n".join(lines)


class _Running:
    """A cell's process."""

    def __init__(self, grid: Grid, cell: Cell) -> None:
        self.grid, self.cell, self.started = grid, cell, time.monotonic()
        self.error: str | None = None
        config = grid.beside(cell, "yaml")
        write_text(config, yaml.safe_dump(cell.recipe.model_dump(mode="json"), sort_keys=False))
        words = ["train", config, "--data", cell.data, "--out", grid.folder(cell).root, "--resume"]
        for option, folders in (("--store", cell.stores), ("--encoder", cell.encoders)):
            for name, folder in folders.items():
                words += [option, f"{name}={folder}"]
        words += ["--cache", cell.cache] if cell.encoders and cell.cache else []
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

    def cell(self, cell: Cell, started: float, error: str | None) -> None:
        """Show a cell that has just ended."""
        self.done += 1
        seconds = time.monotonic() - self._start
        left = clock(seconds / (self.done - self.before) * (self.cells - self.done))
        took = clock(time.monotonic() - started)
        what = f"FAILED: {error}" if error else "done"
        print(f"grid {self.done}/{self.cells} {cell.name} {what} ({took}; about {left} left)", file=sys.stderr)
        sys.stderr.flush()


def require_all_there(outcomes: Sequence[Outcome]) -> None:
    """Raise InputError where cells are another shard's and not finished: the last shard writes the report."""
    waiting = [outcome for outcome in outcomes if outcome.error == OTHERS]
    if waiting:
        raise InputError(f"{len(waiting)} cells are another shard's and not finished yet; call again for the report")


def train_here(cell: Cell, out: Path) -> str | None:
    """Train a cell in this process; the line it failed with, or None.

    Raises KeyboardInterrupt where it was asked to stop (its state is saved).
    """
    from experiments.end_to_end import MoonEncoders
    from features.ranks import process_group
    from ranker.opened_encoders import OpenedEncoders
    from ranker.train import Interrupted, train

    dataset = Dataset(cell.data)
    encoders = OpenedEncoders(MoonEncoders(), cell.encoders, dataset, cell.cache)
    try:
        with process_group() as ranks:
            train(cell.recipe, dataset, out, ranks, True, cell.stores, encoders.openers)
            encoders.save(RunFolder(out))
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
