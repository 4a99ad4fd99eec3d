"""What a source of logs promises to the preparation: canonical chunks of events, a catalogue, a split rule."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl

from data.config import Config
from data.errors import InputError

CHUNK_ROWS = 1 << 18


class Split(Config):
    """How samples are divided. Shares are of a user's rows (within_user) or of all rows by time (temporal)."""

    rule: Literal["within_user", "temporal", "given", "none"]
    train: float = 0.8
    valid: float = 0.1
    cuts: tuple[int, int] | None = None


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file as a canonical frame.

    Columns: user_id, item_id (whole numbers or text), ts (Int64, Unix seconds), label (number; null with
    `sample` false), action (Int8 code, null: the event is no behaviour), sample (Boolean: the event is an
    impression to learn from); then the source's side and context columns. `split` (text) if the rule is `given`.
    `_row` (number of the row in the file) if the rows are not consecutive.
    """

    frame: pl.DataFrame
    file: Path
    first_row: int


class Source(Protocol):
    """One kind of log. Reading is lazy: nothing is read before the methods are called."""

    @property
    def about(self) -> "About": ...

    def items(self) -> pl.DataFrame:
        """Catalogue, one row an item, with at least `item_id`."""
        ...

    def users(self) -> pl.DataFrame | None:
        """User table with at least `user_id`, or None if the log holds ids only."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """All events in bounded chunks, in any order."""
        ...


@dataclass(frozen=True)
class About:
    """Facts of a source that go into dataset.json."""

    name: str
    label: str
    actions: tuple[str, ...]
    split: Split
    side: Mapping[str, pl.DataType] = field(default_factory=dict)
    context: Mapping[str, pl.DataType] = field(default_factory=dict)
    images: tuple[dict[str, Any], ...] = ()
    time: Literal["unix seconds", "row order"] = "unix seconds"
    notes: tuple[str, ...] = ()


def read_parquet_chunks(file: Path, columns: list[str], rows: int | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
    """(first row, frame) of at most `rows` (None: CHUNK_ROWS) rows each; give fewer where a row holds a long list.

    Raises InputError naming the file if it is absent, truncated, or lacks a column.
    """
    import pyarrow.parquet as pq

    require_file(file)
    try:
        reader = pq.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable parquet file (truncated?): {one_line(error)}") from None
    require_columns(file, reader.schema_arrow.names, columns)
    row = 0
    batches = reader.iter_batches(batch_size=rows or CHUNK_ROWS, columns=columns)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: damaged near row {row}: {one_line(error)}") from None
        if batch is None:
            return
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield row, frame
        row += len(frame)


def read_csv_chunks(
    file: Path,
    columns: list[str],
    dtypes: Mapping[str, pl.DataType] | None = None,
    names: list[str] | None = None,
    rows: int | None = None,
    separator: str = ",",
) -> Iterator[tuple[int, pl.DataFrame]]:
    """(first row, frame) of about `rows` (None: CHUNK_ROWS) rows each of a CSV, only `columns`.

    `names`: of a file without header.

    Raises InputError naming the file if it is absent, lacks a column or does not parse.
    """
    require_file(file)
    try:
        scan = partial(pl.scan_csv, file, has_header=names is None, separator=separator, infer_schema_length=10_000)
        lazy = scan(schema_overrides=dtypes if names is None else None)
        present = lazy.collect_schema().names()
        if names is not None:
            if len(present) != len(names):
                raise InputError(f"{file}: {len(present)} columns in the first rows; there must be {len(names)}")
            named = dict(zip(names, present, strict=True))
            lazy = scan(schema_overrides={named[n]: t for n, t in (dtypes or {}).items()})
            lazy, present = lazy.rename({old: new for new, old in named.items()}), names
        require_columns(file, present, columns)
        row = 0
        for frame in lazy.select(columns).collect_batches(chunk_size=rows or CHUNK_ROWS, maintain_order=True):
            yield row, frame
            row += len(frame)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{file}: not a readable CSV: {one_line(error)}") from None


def read_schema(file: Path, separator: str | None = None) -> dict[str, pl.DataType]:
    """Columns of a parquet file, or of a CSV with this `separator`, with the same errors as the chunked readers."""
    require_file(file)
    try:
        if separator is None:
            return dict(pl.read_parquet_schema(file))
        return dict(pl.scan_csv(file, separator=separator, infer_schema_length=10_000).collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "parquet file (truncated?)" if separator is None else "CSV"
        raise InputError(f"{file}: not a readable {kind}: {one_line(error)}") from None


def read_parquet(file: Path, columns: list[str], select: list[str] | None = None) -> pl.DataFrame:
    """A whole (small) table that has `columns`, with the same errors as the chunked reader; `select`: only these."""
    require_file(file)
    try:
        require_columns(file, list(pl.read_parquet_schema(file)), columns)
        return pl.read_parquet(file, columns=select)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{file}: not a readable parquet file (truncated?): {one_line(error)}") from None


def require_file(file: Path) -> None:
    """Raise InputError if `file` is not there."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")


def require_columns(file: Path, present: list[str], wanted: list[str]) -> None:
    """Raise InputError naming the first missing column and the nearest present one."""
    import difflib

    for column in wanted:
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(present)}"
            raise InputError(f"{file}: column {column!r} is missing; {hint}")


def require_dtype(
    file: Path, schema: Mapping[str, pl.DataType], column: str, kind: Literal["number", "whole", "wholes", "id"]
) -> None:
    """Raise InputError if a column's dtype cannot hold what it should."""
    dtype = schema[column]
    good = {
        "number": dtype.is_numeric(),
        "whole": dtype.is_integer(),
        "wholes": isinstance(dtype, pl.List) and dtype.inner.is_integer(),  # pyright: ignore[reportAttributeAccessIssue]
        "id": dtype.is_integer() or dtype == pl.String,
    }[kind]
    if not good:
        wants = {
            "number": "a number",
            "whole": "whole numbers",
            "wholes": "lists of whole numbers",
            "id": "whole numbers or text",
        }[kind]
        raise InputError(f"{file}: column {column!r} is {dtype}; it must be {wants}")


def one_line(error: Exception) -> str:
    """An exception's message on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200]
