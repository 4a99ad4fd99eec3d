"""Embedding a catalogue in parts, in one process or several.

A part is a fixed range of items, embedded in batches that depend on nothing else and written by one rename: what was
killed and goes on gives the same bytes.
"""

import json
import os
import queue
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.multiprocessing as mp

from data.dataset import Dataset
from data.errors import InputError
from data.host import keep_freed_memory
from features.store import Dtype
from features.store_writer import quantised
from moon_encoder.checkpoint import encoder_info, load_encoder
from moon_encoder.embedding import BATCH, embed
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Catalogue, Contents, Form
from moon_encoder.frozen_cache import item_pictures
from moon_encoder.items import Items
from moon_encoder.queries import QueryContents

PART = 2048  # items
POLL_SECONDS = 0.2
Subject = Literal["items", "queries"]


@dataclass(frozen=True)
class Job:
    """What is embedded with what; all of it decides the bytes of a part."""

    encoder: str
    encoder_fingerprint: str
    data: str
    dataset_fingerprint: str
    content: Form
    columns: dict[str, Any]
    dim: int
    dtype: Dtype
    batch: int = BATCH
    part: int = PART
    of: Subject = "items"

    def parts(self, items: int) -> list[range]:
        """Item indices of each part."""
        return [range(at, min(at + self.part, items)) for at in range(0, items, self.part)]


def here(
    job: Job, folder: Path, todo: list[int], processes: int, done: Callable[[int], None], cache: Path | None
) -> None:
    """All parts in this process."""
    if todo:
        worker = Worker(job, folder, 0, processes, cache)
        for number in todo:
            worker.embed(number, done)


def in_processes(
    job: Job, folder: Path, todo: list[int], processes: int, done: Callable[[int], None], cache: Path | None
) -> None:
    """Parts handed out to `processes`; the first that fails ends the others."""
    context = mp.get_context("spawn")
    counter, messages = context.Value("q", 0), context.Queue()
    count = min(processes, len(todo))
    workers = [
        context.Process(target=_work, args=(job, folder, todo, n, processes, cache, counter, messages), daemon=True)
        for n in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        finished = 0
        while finished < count:
            try:
                kind, value = messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                dead = [worker.exitcode for worker in workers if worker.exitcode]
                if dead:
                    raise RuntimeError(f"an embedding process ended with status {dead[0]}; --resume goes on") from None
                continue
            if kind == "items":
                done(value)
            elif kind == "input error":
                raise InputError(value)
            elif kind == "error":
                raise RuntimeError(value)
            else:
                finished += 1
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(
    job: Job,
    folder: Path,
    todo: list[int],
    number: int,
    processes: int,
    cache: Path | None,
    counter: Any,
    messages: Any,
) -> None:
    """One process: takes the next part until there is none, or its parent is gone."""
    parent = os.getppid()

    def done(items: int) -> None:
        if os.getppid() != parent:
            os._exit(1)
        messages.put(("items", items))

    try:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(_cores(processes))
        worker = Worker(job, folder, number, processes, cache)
        while True:
            with counter.get_lock():
                at, counter.value = counter.value, counter.value + 1
            if at >= len(todo):
                break
            worker.embed(todo[at], done)
        messages.put(("finished", number))
    except InputError as error:
        messages.put(("input error", str(error)))
    except Exception as error:
        messages.put(("error", f"{type(error).__name__}: {' '.join(str(error).split())}"))


class Worker:
    """An encoder and the items, in one process."""

    def __init__(self, job: Job, folder: Path, number: int, processes: int, cache: Path | None) -> None:
        self.job, self.folder = job, folder
        self.threads = min(_cores(processes), 8) if torch.cuda.is_available() else 1
        keep_freed_memory()
        self.encoder: Encoder = load_encoder(job.encoder, device(number))
        dataset = Dataset(job.data)
        if encoder_info(job.encoder).fingerprint != job.encoder_fingerprint:
            raise InputError(f"{job.encoder}: the encoder was replaced meanwhile")
        contents = Contents.of(dataset, Catalogue.model_validate(job.columns))
        queries = job.of == "queries"
        pictures = item_pictures(self.encoder, contents, cache) if cache is not None and not queries else None
        self.items = QueryContents(contents, self.encoder.reads) if queries else Items(contents, job.content, pictures)
        self.parts = job.parts(len(self.items))
        self.lengths = self.items.text_lengths()

    def embed(self, number: int, done: Callable[[int], None]) -> None:
        """Write one part; texts of like length share a batch."""
        rows = np.array(self.parts[number], np.int64)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        if isinstance(self.items, Items):
            self.items.compute(rows)
        vectors, present, problems = embed(
            self.encoder, self.items, rows, self.job.dim, self.job.batch, self.threads, done
        )
        codes, scale = quantised(vectors[present], self.job.dtype, rows[present])
        part = self.folder / f"writing-{os.getpid()}.npz"
        told = json.dumps([asdict(problem) for problem in problems])
        np.savez(part, rows=rows[present], codes=codes, scale=scale, problems=np.array(told))
        os.replace(part, part_file(self.folder, number))


def device(number: int = 0) -> torch.device:
    """The device of the n-th process."""
    count = torch.cuda.device_count()
    return torch.device("cuda", number % count) if count else torch.device("cpu")


def _cores(processes: int) -> int:
    """CPU cores for each process."""
    return max(len(os.sched_getaffinity(0)) // processes, 1)


def part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:08d}.npz"
