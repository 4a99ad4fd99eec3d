"""What an encoder's training tells: metrics.jsonl, TensorBoard and a progress line."""

import json
import sys
import time
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from data.files import write_text
from features.ranks import Ranks
from moon_encoder.run import Progress, RunFolder


class TrainLog:
    """metrics.jsonl, TensorBoard and a progress line; a resumed run drops the lines after its checkpoint.

    Only the first rank writes. `unit`: what is counted, e.g. pairs.
    """

    def __init__(self, run: RunFolder, ranks: Ranks, unit: str, every: int, total_steps: int) -> None:
        self.run, self.ranks, self.unit, self.every, self.total_steps = run, ranks, unit, every, total_steps
        self.per_second = 0.0
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._terminal = sys.stderr.isatty()
        self._units = self._all_units = 0
        self._since, self._shown, self._all_seconds = time.monotonic(), 0.0, 0.0

    def open(self, progress: Progress) -> None:
        """Start writing after `progress.step`."""
        self._since = time.monotonic()
        if self.ranks.first:
            lines = self.run.log.read_text().splitlines() if self.run.log.is_file() else []
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= progress.step]
            write_text(self.run.log, "".join(f"{line}\n" for line in kept))
            self._file = self.run.log.open("a")
            self._board = SummaryWriter(str(self.run.root / "tb"), purge_step=progress.step + 1)

    def step(self, progress: Progress, loss: float, units: int, more: dict[str, float]) -> None:
        """Record one step: its loss, the units of all ranks, and further numbers to plot."""
        progress.loss_sum, progress.loss_steps = progress.loss_sum + loss, progress.loss_steps + 1
        self._units += units
        if progress.step % self.every == 0:
            self._settle()
            facts = {"step": progress.step, "epoch": progress.epoch, "loss": progress.loss_sum / progress.loss_steps}
            facts |= more | {f"{self.unit}_per_second": self.per_second}
            self._write(facts, "train")
            progress.loss_sum, progress.loss_steps = 0.0, 0
            now = time.monotonic()
            if self.ranks.first and now - self._shown > (0.2 if self._terminal else 10):
                self._shown = now
                self._line(
                    f"epoch {progress.epoch} step {progress.step:,} of {self.total_steps:,}: loss {facts['loss']:.4f}, "
                    f"{self.per_second:,.0f} {self.unit}/s"
                )

    def evaluation(self, progress: Progress, found: dict[str, float], best: bool, seconds: float) -> None:
        """Record figures of the valid split."""
        self._settle()
        self._write({"step": progress.step, "epoch": progress.epoch, "best": best} | found, "valid")
        if self.ranks.first:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            self._line(f"step {progress.step:,} valid: {shown}{' (best)' if best else ''} ({seconds:.0f} s)", keep=True)
        self._since = time.monotonic()

    def close(self) -> None:
        """Close the files."""
        for opened in (self._file, self._board):
            if opened is not None:
                opened.close()

    def _settle(self) -> None:
        now = time.monotonic()
        self._all_units += self._units
        self._all_seconds += now - self._since if self._units else 0.0
        self._units, self._since = 0, now
        self.per_second = self._all_units / self._all_seconds if self._all_seconds else 0.0

    def _write(self, facts: dict[str, Any], group: str) -> None:
        if self._file is not None:
            self._file.write(json.dumps(facts) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in facts.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{group}/{name}", value, facts["step"])

    def _line(self, text: str, keep: bool = False) -> None:
        before = "\r\x1b[K" if self._terminal else ""
        print(f"{before}{text}", end="" if self._terminal and not keep else "\n", file=sys.stderr, flush=True)
