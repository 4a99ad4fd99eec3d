"""Row checks of a raw log: every bad row gets one reason, is counted, kept aside, and too many are an error."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from data.errors import InputError
from data.source import Chunk, require_dtype

LATEST_TS = 4_102_444_800  # 2100-01-01
MILLISECONDS_FROM = 100_000_000_000  # as seconds this is the year 5138


def checks() -> list[tuple[str, str, pl.Expr]]:
    """(reason, column, expression that is true for a bad row), in the order they are tried."""
    ts, label = pl.col("ts"), pl.col("label").cast(pl.Float64)
    return [
        ("user_id is null", "user_id", pl.col("user_id").is_null()),
        ("item_id is null", "item_id", pl.col("item_id").is_null()),
        ("ts is null", "ts", ts.is_null()),
        ("ts looks like milliseconds, give seconds", "ts", ts >= MILLISECONDS_FROM),
        ("ts is outside 1970..2100, give Unix seconds", "ts", (ts < 0) | (ts > LATEST_TS)),
        ("label is null or NaN", "label", pl.col("sample") & (label.is_null() | label.is_nan())),
        ("label is outside {0, 1}", "label", pl.col("sample") & ~label.is_in([0.0, 1.0])),
    ]


@dataclass
class Rejections:
    """Collects rejected rows; `write` puts them into rejected.parquet."""

    max_share: float
    counts: dict[str, int] = field(default_factory=dict)
    seen: int = 0
    _frames: list[pl.DataFrame] = field(default_factory=list)
    _first: dict[str, str] = field(default_factory=dict)
    kept_rows: int = 100_000

    def filter(self, chunk: Chunk) -> pl.DataFrame:
        """The good rows of a chunk with their `_row` in the file; the bad ones are recorded with their reason.

        Raises InputError where a whole column is of the wrong kind.
        """
        kinds: dict[str, Literal["id", "whole"]] = {"user_id": "id", "item_id": "id", "ts": "whole"}
        for column, kind in kinds.items():
            require_dtype(chunk.file, chunk.frame.schema, column, kind)
        reason = pl.lit(None, pl.String)
        for text, _, bad in reversed(checks()):
            reason = pl.when(bad.fill_null(False)).then(pl.lit(text)).otherwise(reason)
        frame = chunk.frame if "_row" in chunk.frame.columns else chunk.frame.with_row_index("_row", chunk.first_row)
        numbered = frame.with_columns(reason.alias("_reason"))
        bad_rows = numbered.filter(pl.col("_reason").is_not_null())
        if len(bad_rows):
            columns = {text: column for text, column, _ in checks()}
            for text in bad_rows["_reason"].unique():
                self.record(bad_rows.filter(pl.col("_reason") == text), text, columns[text], chunk.file)
        self.seen += len(numbered)
        return numbered.filter(pl.col("_reason").is_null()).drop("_reason")

    def record(self, rows: pl.DataFrame, reason: str, column: str, file: Path) -> None:
        """Count `rows` (with a `_row` column) as rejected for `reason`; keep the first of them."""
        self.counts[reason] = self.counts.get(reason, 0) + len(rows)
        first = rows.row(0, named=True)
        self._first.setdefault(reason, f"{file} row {first['_row']}, column {column!r}: {first[column]!r}")
        room = self.kept_rows - sum(map(len, self._frames))
        if room > 0:
            kept = rows.head(room)
            raw = [json.dumps(row, default=str) for row in kept.drop("_row", "_reason", strict=False).to_dicts()]
            self._frames.append(
                pl.DataFrame({"file": str(file), "row": kept["_row"].cast(pl.Int64), "reason": reason, "raw": raw})
            )

    def check(self) -> None:
        """Raise InputError if more than the allowed share of rows was rejected."""
        total = sum(self.counts.values())
        if total > self.max_share * self.seen:
            reason = max(self.counts, key=lambda r: self.counts[r])
            raise InputError(
                f"{self._first[reason]}: {reason}; {total:,} of {self.seen:,} rows are bad, "
                f"more than the allowed share {self.max_share:g} (--max-rejected)"
            )

    def write(self, path: Path) -> None:
        """Write rejected.parquet (empty if nothing was rejected)."""
        schema = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}
        frame = pl.concat(self._frames) if self._frames else pl.DataFrame(schema=schema)
        frame.write_parquet(path)
