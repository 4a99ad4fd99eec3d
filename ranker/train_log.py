"""What a training run tells: metrics.jsonl, TensorBoard and a progress line."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from features.batch import Batch
from features.loader import Loader
from features.ranks import Ranks
from ranker.checkpoint import Progress
from ranker.local_parts import local_parts, table_of
from ranker.run_folder import RunFolder

SHOWN_METRICS = ("auc", "gauc", "logloss", "ne", "pcoc", "ece")


class TrainLog:
    """Every `log_every` steps a line with the mean loss, rows/s and the share of time spent waiting for data.

    A resumed run drops the lines after its checkpoint and writes them again. Only the first rank writes.
    """

    def __init__(self, run: RunFolder, ranks: Ranks, loader: Loader, log_every: int, total_steps: int) -> None:
        self.run, self.ranks, self.loader = run, ranks, loader
        self.log_every, self.total_steps = log_every, total_steps
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._terminal = sys.stderr.isatty()
        self._rows = self._all_rows = 0
        self._waited = self._all_seconds = 0.0
        self._since = self._shown = time.monotonic()

    def open(self, progress: Progress) -> None:
        """Start writing after `progress.step`; what stands there of later steps goes."""
        self._since = self._shown = time.monotonic()
        if not self.ranks.first:
            return
        kept = [line for line in _lines(self.run) if json.loads(line)["step"] <= progress.step]
        part = self.run.log.with_name(".metrics.jsonl")
        part.write_text("".join(kept))
        part.replace(self.run.log)
        self._file = self.run.log.open("a")
        self._board = SummaryWriter(str(self.run.root / "tb"), purge_step=progress.step + 1)

    def watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each is there counts as waiting."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - started
            if batch is None:
                return
            yield batch

    def step(self, progress: Progress, loss: float, rows: int, rate: float) -> None:
        """Record one step: mean loss of all ranks' rows, the number of this rank's, the dense learning rate."""
        progress.loss_sum += loss
        progress.loss_steps += 1
        self._rows += rows * self.ranks.world_size
        if progress.step % self.log_every == 0:
            seconds = time.monotonic() - self._since
            mean = progress.loss_sum / progress.loss_steps
            facts = {
                "step": progress.step,
                "epoch": progress.epoch,
                "loss": mean,
                "lr": rate,
                "rows_per_second": self._rows / seconds,
                "data_wait": self._waited / seconds,
            }
            self._write(facts)
            for name in ("loss", "lr", "rows_per_second", "data_wait"):
                self._plot(f"train/{name}", facts[name], progress.step)
            self._show(progress, facts)
            progress.loss_sum, progress.loss_steps = 0.0, 0
            self._restart()

    def evaluation(self, progress: Progress, found: dict[str, Any], best: bool, model: nn.Module) -> None:
        """Record figures of the valid split and the size of the embedding rows."""
        self._write({"step": progress.step, "epoch": progress.epoch, "valid": found, "best": best})
        for name in SHOWN_METRICS:
            self._plot(f"valid/{name}", found[name], progress.step)
        for table, norm in row_norms(model).items():
            self._plot(f"embedding_norm/{table}", norm, progress.step)
        if self.ranks.first:
            shown = ", ".join(f"{name} {found[name]:.5f}" for name in SHOWN_METRICS)
            self._line(f"step {progress.step:,} valid: {shown}{' (best)' if best else ''}", keep=True)
        self._restart()

    @property
    def rows_per_second(self) -> float:
        """Rows of all ranks over the time spent in training steps (evaluations left out)."""
        return self._all_rows / self._all_seconds if self._all_seconds else 0.0

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _restart(self) -> None:
        now = time.monotonic()
        self._all_rows += self._rows
        self._all_seconds += now - self._since if self._rows else 0.0
        self._rows, self._waited, self._since = 0, 0.0, now

    def _write(self, facts: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(facts) + "\n")
            self._file.flush()

    def _plot(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def _show(self, progress: Progress, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        if not self.ranks.first or now - self._shown < (0.2 if self._terminal else 10):
            return
        self._shown = now
        global_batch = self.loader.batch_size * self.ranks.world_size
        left = (self.total_steps - progress.step) * global_batch / max(1.0, facts["rows_per_second"])
        self._line(
            f"epoch {progress.epoch} step {progress.step:,} of {self.total_steps:,}: loss {facts['loss']:.5f}, "
            f"{facts['rows_per_second']:,.0f} rows/s, {facts['data_wait']:.0%} waiting for data, "
            f"at most {_clock(left)} left"
        )

    def _line(self, text: str, keep: bool = False) -> None:
        before = "\r\x1b[K" if self._terminal else ""
        print(f"{before}{text}", end="" if self._terminal and not keep else "\n", file=sys.stderr, flush=True)


def row_norms(model: nn.Module) -> dict[str, float]:
    """Root mean square row length of every embedding table, over all ranks (all of them must call this)."""
    tables = {table: value for name, value in model.state_dict().items() if (table := table_of(name))}
    if not tables:
        return {}
    parts = {table: [part.values for part in local_parts(value)] for table, value in tables.items()}
    own = [[sum(v.float().pow(2).sum().item() for v in p), sum(v.numel() for v in p)] for p in parts.values()]
    sums = torch.tensor(own, dtype=torch.float64)  # of squares and of numbers: what several ranks hold counts for each
    if dist.get_backend() == "nccl":
        sums = sums.cuda()
    dist.all_reduce(sums)
    return {
        table: (squares / max(1.0, numbers) * value.size(1)) ** 0.5
        for (table, value), (squares, numbers) in zip(tables.items(), sums.tolist(), strict=True)
    }


def _lines(run: RunFolder) -> list[str]:
    """Whole lines of metrics.jsonl (a torn last line is dropped)."""
    if not run.log.is_file():
        return []
    return [line for line in run.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
