"""`moon bench history`: what a training step costs with 50, 200 and 1,000 behaviours, and where most would be padding.

Time is CPU time of one thread, so that other work on the machine does not count. Memory is the growth of the resident
set over the step, beside what (behaviours x vector width) floats would take.
"""

import argparse
import ctypes
import gc
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Dataset
from data.files import write_json
from data.host import git_commit, keep_freed_memory
from experiments.histories.log import write_log
from experiments.histories.mechanisms import MECHANISMS, SEQUENCE, recipe
from features.batch import Batch
from features.collate import Collator
from features.ranks import Ranks, process_group
from features.vector_source import open_sources
from ranker.end_to_end import ItemEncoders
from ranker.run_folder import RunFolder
from ranker.train import Trainer

LENGTHS = (50, 200, 1000)
JAGGED = "jagged"
PADDING = 20  # times the behaviours, in the jagged case
WARM, STEPS = 1, 3
USERS, BEHAVIOURS, DIM = 60, 1500, 128


@dataclass(frozen=True)
class Measured:
    """One cell. behaviours: a row, on average. rows_per_second, batch_microseconds (building, a row), step_microseconds
    (a row): CPU. step_bytes: peak growth of the resident set over a step. pairs_bytes: behaviours x vector width."""

    mechanism: str
    case: str
    length: int
    rows: int
    behaviours: float
    padding: float
    rows_per_second: float
    batch_microseconds: float
    step_microseconds: float
    step_bytes: int
    pairs_bytes: int


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench history", description="A training step over long histories.")
    parser.add_argument("--rows", type=int, default=256, help="rows of a step (default 256)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, process_group() as ranks:
        data, store = write_log(Path(scratch) / "log", USERS, BEHAVIOURS, DIM)
        found = []
        for name in MECHANISMS:
            for length in LENGTHS:
                found.append(measure(name, str(length), length, args.rows, Dataset(data), store, ranks))
                print(line(found[-1]), flush=True)
            found.append(measure(name, JAGGED, LENGTHS[-1], args.rows, Dataset(data), store, ranks))
            print(line(found[-1]), flush=True)
    if args.json:
        facts = {"rows": args.rows, "dim": DIM, "threads": 1, "steps": STEPS, "torch": torch.__version__}
        write_json(args.json, {"settings": facts | {"commit": git_commit()}, "cells": [asdict(cell) for cell in found]})
    return 0


def measure(name: str, case: str, length: int, rows: int, dataset: Dataset, store: Path, ranks: Ranks) -> Measured:
    """Train a few steps of one mechanism on rows of one case."""
    chosen = recipe(name, length)
    sources = open_sources(chosen.features, dataset, {v.name: store for v in chosen.features.vectors})
    trainer = Trainer(chosen, dataset, sources, RunFolder(store / "none"), ranks, ItemEncoders({}, sources, ranks))
    building, batches = [], []
    for picked in _rows(dataset, case, length, rows):
        started = time.process_time()
        batches.append(_batch(trainer, picked))
        building.append(time.process_time() - started)
    for batch in batches[:WARM]:
        trainer.train_step(batch)
    steps, grown = [], []
    for batch in batches[WARM:]:
        before = _trimmed()
        started = time.process_time()
        trainer.train_step(batch)
        steps.append(time.process_time() - started)
        grown.append(_status("VmHWM") - before)
    lengths = torch.cat([batch.sequences[SEQUENCE].lengths for batch in batches[WARM:]]).float()
    behaviours = float(lengths.mean())
    batch_us, step_us = (statistics.median(s) / rows * 1e6 for s in (building[WARM:], steps))
    return Measured(
        mechanism=name,
        case=case,
        length=length,
        rows=rows,
        behaviours=behaviours,
        padding=length / behaviours,
        rows_per_second=1e6 / (batch_us + step_us),
        batch_microseconds=batch_us,
        step_microseconds=step_us,
        step_bytes=int(statistics.median(grown)),
        pairs_bytes=round(behaviours * rows) * DIM * 4,
    )


def line(cell: Measured) -> str:
    """A cell in one line."""
    return (
        f"{cell.mechanism:<29} {cell.case:>6}: {cell.behaviours:7.1f} behaviours a row (padded {cell.padding:4.1f}), "
        f"{cell.rows_per_second:8,.0f} rows/s, {cell.step_microseconds / cell.behaviours:6.2f} us a behaviour, "
        f"step {cell.step_bytes / 2**20:6.0f} MiB (pairs x vectors {cell.pairs_bytes / 2**20:5.0f} MiB)"
    )


def _rows(dataset: Dataset, case: str, length: int, rows: int) -> list[Any]:
    """Train samples of each batch: with `length` behaviours at least, or (jagged) so mixed that they are 1 / PADDING of
    the padded number."""
    frame = dataset.samples("train").collect().with_row_index("row")
    full = frame.filter(frame["history_end"] >= length)
    rng, found = np.random.default_rng(length), []
    for _ in range(WARM + STEPS):
        if case != JAGGED:
            found.append(full.sample(rows, with_replacement=True, seed=int(rng.integers(1 << 31))))
            continue
        long = rows // (2 * PADDING)  # half of the behaviours, the rest in short histories
        short = round(length * long / (rows - long))
        near = frame.filter(frame["history_end"].is_between(short - 5, short + 5))
        seeds = rng.integers(1 << 31, size=2).tolist()
        parts = [full.sample(long, with_replacement=True, seed=seeds[0])]
        parts.append(near.sample(rows - long, with_replacement=True, seed=seeds[1]))
        found.append(parts[0].vstack(parts[1]))
    return found


def _batch(trainer: Trainer, picked: Any) -> Batch:
    samples = trainer.samples
    window = samples.window(picked.select("row", *samples.read_columns))
    return Collator(samples).collate(window, np.arange(len(picked)))


def _trimmed() -> int:
    """Give freed memory back to the kernel and forget the peak; the resident set in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for row in Path("/proc/self/status").read_text().splitlines():
        if row.startswith(field + ":"):
            return int(row.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this bench runs on Linux")
