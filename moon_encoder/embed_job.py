"""Bulk embedding of a catalogue: resumable parts, then one version of the store.

STORE/.embedding/{job.json, part-00000012.npz, ...} holds finished parts until the version is published. What was wrong
with an item stands in the version's problems.parquet.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from data.progress import Progress
from data.queries import query_ids
from features.store import Dtype, Version
from features.store_writer import StoreWriter
from moon_encoder.checkpoint import EncoderInfo, encoder_info, load_encoder
from moon_encoder.embed_parts import Job, Subject, here, in_processes, part_file
from moon_encoder.embedding import Problem, checked_dim
from moon_encoder.forms import Catalogue, Form
from moon_encoder.items import readable, require_images

PROBLEMS = "problems.parquet"
FACTS = {"items": ("content", "columns"), "queries": ("columns",)}  # what else meta.json says of the job
SCHEMA = {"item": pl.Int64, "field": pl.String, "reason": pl.String, "outcome": pl.String}


def plan(
    encoder: Path,
    dataset: Dataset,
    content: Form | None,
    columns: Catalogue,
    dim: int | None,
    dtype: Dtype,
    batch: int,
    of: Subject = "items",
) -> Job:
    """Check what is asked for before any work is done.

    `of`: items, or what was searched for: a query is shown as it is, a picture or a text, whatever `content` says.

    Raises InputError for an encoder that is damaged or reads no such content, or has no prefix of `dim`, and for
    queries of a dataset that knows none.
    """
    info, loaded = encoder_info(encoder), load_encoder(encoder)
    form = readable(content, loaded)
    if of == "items":
        require_images(dataset, form)
    else:
        query_ids(dataset)
    return Job(
        encoder=str(encoder.resolve()),
        encoder_fingerprint=info.fingerprint,
        data=str(dataset.root.resolve()),
        dataset_fingerprint=dataset.fingerprint,
        content=form,
        columns=columns.model_dump(mode="json"),
        dim=checked_dim(loaded, dim),
        dtype=dtype,
        batch=batch,
        of=of,
    )


def run(
    job: Job, root: Path, processes: int, resume: bool, cache: Path | None = None
) -> tuple[Version, dict[str, Any]]:
    """Embed what is not embedded yet, publish, and remove the parts; returns the version and figures of the work.

    `cache`: folder for what the frozen part makes of items' pictures (see moon_encoder.frozen_cache).

    Raises InputError if another embedding works on this store, if parts of another job lie there, or parts of this one
    and `resume` is off, or if no item gets a vector.
    """
    folder, dataset = root / ".embedding", Dataset(job.data)
    parts = job.parts(len(_ids(job, dataset)))
    with _claimed(folder, job, resume):
        todo = [number for number in range(len(parts)) if not part_file(folder, number).is_file()]
        progress = Progress("embedding", sum(len(parts[number]) for number in todo), job.of)
        started = time.monotonic()
        work = in_processes if processes > 1 else here
        work(job, folder, todo, processes, progress.add, cache)
        progress.close()
        seconds = time.monotonic() - started
        version, problems = _publish(job, root, folder, len(parts), dataset)
    alike = pl.col("reason").str.replace_all("'[^']*'", "'...'").str.replace("^[0-9,]+ characters", "characters")
    counts = problems.group_by("field", alike, "outcome").len(name="items")
    figures = {
        "embedded_now": progress.done,
        "seconds": seconds,
        "items_per_second": progress.done / seconds if progress.done else None,
        "processes": processes,
        "problems": counts.sort("items", "field", "reason", descending=[True, False, False]).to_dicts(),
    }
    return version, figures


@contextmanager
def _claimed(folder: Path, job: Job, resume: bool) -> Iterator[None]:
    """Hold the work folder while working; it is removed once all is published."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another embedding is at work on this store; wait for it") from None
        path = folder / "job.json"
        if not new and path.is_file():
            before = json.loads(path.read_text())
            changed = [name for name, value in asdict(job).items() if before.get(name) != value]
            if changed:
                was = f"{changed[0]} {before.get(changed[0])!r}"
                raise InputError(f"{folder}: an embedding with another {was} was cut off here; finish it or remove it")
            done = len(list(folder.glob("part-*.npz")))
            if done and not resume:
                raise InputError(f"{folder}: holds {done} parts of this embedding; --resume goes on, or remove it")
        write_json(path, asdict(job))
        yield
        shutil.rmtree(folder)


def _publish(job: Job, root: Path, folder: Path, parts: int, dataset: Dataset) -> tuple[Version, pl.DataFrame]:
    """Put the parts together. Returns the version and the problems, which also lie in it."""
    info, ids = encoder_info(job.encoder), _ids(job, dataset)
    problems: list[Problem] = []
    with StoreWriter(
        root,
        len(ids),
        job.dim,
        job.dtype,
        encoder=encoder_name(info),
        matryoshka=tuple(m for m in info.matryoshka if m < job.dim),
        dataset_fingerprint=dataset.fingerprint if job.of == "items" else None,  # rows of queries are found by id alone
        item_ids=ids,
        facts={name: getattr(job, name) for name in FACTS[job.of]} | {"encoder_path": job.encoder, "of": job.of},
    ) as writer:
        vectors = 0
        for number in range(parts):
            with np.load(part_file(folder, number)) as part:
                writer.put_codes(part["rows"], part["codes"], part["scale"])
                vectors += len(part["rows"])
                problems += [Problem(**fields) for fields in json.loads(str(part["problems"]))]
        table = problem_table(problems, ids)
        if not vectors:
            reason = f"; {job.of[:-1]} {table['item_id'][0]}: {table['reason'][0]}" if len(table) else ""
            raise InputError(f"{job.data}: no {job.of[:-1]} got a vector{reason}")
        table.write_parquet(writer.folder / PROBLEMS)
        return writer.publish(), table


def _ids(job: Job, dataset: Dataset) -> pl.Series:
    """Ids of what is embedded, in order of its rows."""
    return query_ids(dataset) if job.of == "queries" else dataset.items().select("item_id").collect()["item_id"]


def encoder_name(info: EncoderInfo) -> str:
    """What a store calls the encoder."""
    return f"{info.name}-{info.fingerprint[:12]}"


def problem_table(problems: list[Problem], ids: pl.Series) -> pl.DataFrame:
    """Columns item, item_id, field, reason, outcome, in order of the items."""
    rows = sorted(problems, key=lambda problem: problem.row)
    fields = {name: [getattr(problem, name) for problem in rows] for name in ("field", "reason", "outcome")}
    table = pl.DataFrame({"item": [problem.row for problem in rows]} | fields, schema=SCHEMA)
    return table.insert_column(1, ids.gather(table["item"]).alias("item_id"))
