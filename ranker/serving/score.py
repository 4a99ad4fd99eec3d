"""The command `moon score`: click probabilities of a parquet file's rows, streaming, in order, resumable."""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.errors import InputError
from data.files import write_json, write_parquet
from data.host import keep_freed_memory, peak_rss_bytes
from data.progress import Progress
from data.source import one_line
from ranker.serving.model import Model
from ranker.serving.requests import requests_of
from ranker.serving.signature import HISTORY, LENGTHS

PART_ROWS = 1 << 16
BATCH_ROWS = 1024


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon score", description="Score a parquet file with an exported package.")
    parser.add_argument("package", type=Path, help="folder of an exported model, or one of its versions")
    parser.add_argument("file", type=Path, help="parquet; one row a candidate, columns as in examples/requests.parquet")
    parser.add_argument("--out", type=Path, help="parquet of (row, score) in the file's order (default: FILE.scores)")
    parser.add_argument("--runtime", choices=("aoti", "program", "onnx"), default="aoti", help="program to run")
    parser.add_argument("--json", type=Path, help="write rows, rows/s and counts of unknown ids here")
    args = parser.parse_args(argv)
    keep_freed_memory()
    out = args.out or args.file.with_name(args.file.stem + ".scores.parquet")
    model = Model(args.package, args.runtime, torch.device("cpu"))
    found = score_file(model, args.file, out)
    print(
        f"{out}: {found['rows']:,} rows by {model.package.name} version {model.version}, "
        f"{found['rows_per_second']:,.0f} rows/s; unknown: {found['unknown_users']:,} users' rows, "
        f"{found['unknown_items']:,} items' rows"
    )
    if args.json:
        write_json(args.json, found)
    return 0


def score_file(model: Model, file: Path, out: Path) -> dict[str, Any]:
    """Score `file` into `out` (columns row int64, score float64); returns counts and speed.

    Parts of PART_ROWS rows are kept beside `out` until all are there, so that a call that was cut off goes on where it
    was; `out` appears in one step. Memory is that of one part, whatever the file's size.
    Raises InputError naming file, row and column where the rows do not fit the package.
    """
    total = _rows(file)
    parts = out.with_name(f".{out.name}.parts")
    _same_work(parts, model, file, total)
    progress, started, fresh = Progress(f"scoring {file.name}", total), time.monotonic(), 0
    counts = np.zeros(2, np.int64)
    done = _done(parts)
    for number, frame in _frames(model, file, done):
        scored, unknown = _scored(model, file, number * PART_ROWS, frame)
        write_json(parts / f"{number:08d}.json", unknown)
        write_parquet(parts / f"{number:08d}.parquet", scored)
        progress.add(len(scored))
        fresh += len(scored)
    progress.close()
    for path in sorted(parts.glob("*.json")):
        if path.stem.isdigit():
            counts += json.loads(path.read_text())
    _join(sorted(parts.glob("*.parquet")), out)
    shutil.rmtree(parts)
    seconds = time.monotonic() - started
    return {
        "rows": total,
        "unknown_users": int(counts[0]),
        "unknown_items": int(counts[1]),
        "rows_per_second": fresh / max(seconds, 1e-9),
        "resumed_rows": total - fresh,
        "peak_rss_bytes": peak_rss_bytes(),
        "model": model.package.name,
        "hash": model.package.hash,
    }


def _rows(file: Path) -> int:
    try:
        return pq.ParquetFile(file).metadata.num_rows
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable parquet file (truncated?): {one_line(error)}") from None


def _same_work(parts: Path, model: Model, file: Path, total: int) -> None:
    """Parts of other work (another package or file) are dropped."""
    stat = file.stat()
    work = {"hash": model.package.hash, "rows": total, "bytes": stat.st_size, "mtime": stat.st_mtime_ns}
    state = parts / "work.json"
    if state.is_file() and json.loads(state.read_text()) != work:
        shutil.rmtree(parts)
    if not state.is_file():
        write_json(state, work)


def _done(parts: Path) -> int:
    """Parts that are there, from the first on."""
    number = 0
    while (parts / f"{number:08d}.parquet").is_file():
        number += 1
    return number


def _frames(model: Model, file: Path, done: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """(number, rows) of every part from `done` on; whole row groups of parts that are done are not read."""
    opened = pq.ParquetFile(file)
    lists = model.package.signature.lists
    wanted = [i.name for i in model.package.signature.inputs if i.name.removesuffix(LENGTHS) not in lists]
    wanted += lists
    there = set(opened.schema_arrow.names)
    columns = [name for name in wanted if name in there]
    skip, groups = done * PART_ROWS, list(range(opened.metadata.num_row_groups))
    while groups and skip >= opened.metadata.row_group(groups[0]).num_rows:
        skip -= opened.metadata.row_group(groups.pop(0)).num_rows
    held: list[pa.RecordBatch] = []
    rows, number = 0, done
    for read in opened.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
        batch = read.slice(min(skip, len(read)))
        skip -= min(skip, len(read))
        while len(batch):
            piece = batch.slice(0, PART_ROWS - rows)
            held.append(piece)
            rows, batch = rows + len(piece), batch.slice(len(piece))
            if rows == PART_ROWS:
                yield number, _frame(held)
                held, rows, number = [], 0, number + 1
    if rows:
        yield number, _frame(held)


def _frame(batches: list[pa.RecordBatch]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _scored(model: Model, file: Path, first: int, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[int]]:
    """Scores of one part, and its rows whose user (and item) is unknown."""
    scores, unknown, order = np.empty(len(frame)), np.zeros(2, np.int64), _by_length(frame)
    for start in range(0, len(frame), BATCH_ROWS):
        at = order[start : start + BATCH_ROWS]
        try:
            found = model.score(requests_of(model.package.signature, frame[at]))
        except InputError as error:
            raise InputError(f"{file}: in rows {first + at.min()}..{first + at.max()}: {error}") from None
        scores[at] = found.probability
        unknown += int(found.unknown.user.sum()), int(found.unknown.candidates.sum())
    numbers = pl.int_range(first, first + len(frame), dtype=pl.Int64, eager=True)
    return pl.DataFrame({"row": numbers, "score": scores}), unknown.tolist()


def _by_length(frame: pl.DataFrame) -> np.ndarray:
    """The rows (n,) in the order of their histories' lengths: a batch is padded to its longest."""
    histories = frame.get_column(HISTORY + "item", default=None)
    if histories is None or not isinstance(histories.dtype, pl.List):  # none, or refused where it is read
        return np.arange(len(frame))
    return histories.list.len().fill_null(0).to_numpy().argsort(kind="stable")


def _join(parts: list[Path], out: Path) -> None:
    """All parts as one file, one row group each, published by one rename."""
    part = out.with_name(f".{out.name}.writing")
    schema = pa.schema([("row", pa.int64()), ("score", pa.float64())])
    with pq.ParquetWriter(part, schema) as writer:
        for path in parts:
            writer.write_table(pq.read_table(path))
    part.replace(out)
