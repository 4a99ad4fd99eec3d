"""Taobao-MM (MUSE, Alimama): impressions, user histories of up to a thousand items, int8 multimodal vectors.

The files keep the source's field numbers: label_0 [no click, click], 129_1 user, 205 item, 130_1..130_5 user
attributes, 150_2_180 item history, 151_2_180 its categories (oldest first), 206/213/214 item attributes (206 is the
category), 205_c vector. Each table may be NAME.parquet, NAME*.parquet or a folder NAME of parquet parts.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from data.errors import InputError
from data.source import About, Chunk, Split, read_parquet_chunks, require_dtype

USER_ATTRIBUTES = [f"130_{i}" for i in range(1, 6)]
HISTORY, CATEGORIES = "150_2_180", "151_2_180"
LISTS = ("label_0", HISTORY, CATEGORIES, "205_c")
HISTORY_ROWS = 1 << 12  # a history holds up to a thousand items
VECTORS = "scl_embedding_int8_p90"
VALID_SHARE = 0.1


class TaobaoMM:
    """Reads the six tables under `root`; look-ups that miss are counted in `findings`, never an error.

    Row 0 of the behaviours is the empty history (users without features), then come the users of the train table,
    then those of the test table: a user may stand in both, with the history of its time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.findings: list[str] = []

    @property
    def about(self) -> About:
        return About(
            name="taobao_mm",
            label="click",
            actions=("click",),
            split=Split(rule="given"),
            side={"category": pl.Int64()},
            context={f"user_{name}": pl.Int64() for name in USER_ATTRIBUTES},
            time="row order",
            notes=("no times in the log: ts is the row number; valid is the last tenth of the train rows",),
        )

    def items(self) -> pl.DataFrame:
        """The item table; 206 is the category."""
        wanted = ["205", "206", "213", "214"]
        frames = [frame for _, _, frame in self._table("item_features", wanted)]
        table = pl.concat(frames).unique("205", keep="first", maintain_order=True)
        return table.select(
            pl.col("205").alias("item_id"),
            pl.col("206").cast(pl.String).alias("category"),
            pl.col("213").alias("field_213"),
            pl.col("214").alias("field_214"),
        )

    def users(self) -> None:
        """User attributes differ by the time of a sample, so they are its context."""
        return None

    def chunks(self) -> Iterator[Chunk]:
        """Train rows, then test rows."""
        self.findings.clear()
        items = self.items().select(pl.col("item_id").alias("205"), listed=pl.lit(True))
        before = 0
        for part, first_user in (("train", 1), ("test", 1 + len(self._users["train"]))):
            valid_from = self._train_rows - max(1, round(VALID_SHARE * self._train_rows))
            users = self._users[part].with_row_index("history_row", first_user)
            rows = lost_users = lost_items = 0
            for file, row, frame in self._table(f"{part}_samples", ["label_0", "129_1", "205"]):
                joined = frame.join(users, on="129_1", how="left", maintain_order="left")
                joined = joined.join(items, on="205", how="left", maintain_order="left")
                lost_users += joined["history_row"].null_count()
                lost_items += joined["listed"].null_count()
                place = pl.int_range(pl.len()) + row
                split = pl.when((pl.lit(part) == "train") & (place >= valid_from)).then(pl.lit("valid"))
                yield Chunk(joined.select(*_event(place + before, split.otherwise(pl.lit(part)))), file, row)
                rows = row + len(frame)
            before += rows
            self.findings.append(
                f"{part}: {lost_users:,} of {rows:,} rows show a user without features (empty history)"
            )
            self.findings.append(f"{part}: {lost_items:,} of {rows:,} rows show an item that the item table lacks")

    def histories(self) -> Iterator[pl.DataFrame]:
        """The empty history, then those of the train users, then those of the test users."""
        empty = {"item_id": [[]], "action": [[]], "category": [[]]}
        lists = {"item_id": pl.List(pl.Int64), "action": pl.List(pl.Int8), "category": pl.List(pl.Int64)}
        yield pl.DataFrame(empty, schema=lists)
        for part in ("train", "test"):
            for file, row, frame in self._table(f"{part}_user_features", [HISTORY, CATEGORIES], HISTORY_ROWS):
                sizes = frame.select(pl.all().list.len().fill_null(0))
                uneven = sizes[HISTORY] != sizes[CATEGORIES]
                if uneven.any():
                    raise InputError(
                        f"{file} row {row + int(uneven.arg_max() or 0)}: columns {HISTORY!r} and {CATEGORIES!r} "
                        "differ in length; a history needs one category an item"
                    )
                yield frame.select(
                    pl.col(HISTORY).fill_null([]).alias("item_id"),
                    pl.col(HISTORY).fill_null([]).list.eval(pl.lit(0, pl.Int8)).alias("action"),
                    pl.col(CATEGORIES).fill_null([]).alias("category"),
                )

    def vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(item ids (n,) int64, vectors (n, dim) int8) in chunks, for a representation store.

        Raises InputError for a vector of another width or a number that is no int8.
        """
        dim = 0
        for file, row, frame in self._table(VECTORS, ["205", "205_c"]):
            widths = frame["205_c"].list.len().fill_null(0)
            dim = dim or int(widths.max() or 0)  # pyright: ignore[reportArgumentType]
            if (widths != dim).any():
                wrong = int((widths != dim).arg_max() or 0)
                raise InputError(f"{file} row {row + wrong}, column '205_c': {widths[wrong]} numbers; it must be {dim}")
            flat = frame["205_c"].explode()
            outside = flat.is_between(-128, 127).fill_null(False).not_()
            if outside.any():
                at = int(outside.arg_max() or 0)
                raise InputError(f"{file} row {row + at // dim}, column '205_c': {flat[at]}; it must be an int8")
            flat = flat.cast(pl.Int8).to_numpy()
            yield frame["205"].to_numpy(), flat.reshape(len(frame), dim)

    @cached_property
    def _users(self) -> dict[str, pl.DataFrame]:
        """Ids and attributes of the two user tables, in row order."""
        tables = {}
        for part in ("train", "test"):
            frames = [f for _, _, f in self._table(f"{part}_user_features", ["129_1", *USER_ATTRIBUTES])]
            tables[part] = pl.concat(frames)
            twice = tables[part].filter(pl.col("129_1").is_duplicated())
            if len(twice):
                raise InputError(f"{part}_user_features, column '129_1': {twice['129_1'][0]} stands there twice")
        return tables

    @cached_property
    def _train_rows(self) -> int:
        return sum(pl.scan_parquet(f).select(pl.len()).collect().item() for f in self._files("train_samples"))

    def _table(
        self, name: str, columns: list[str], rows: int | None = None
    ) -> Iterator[tuple[Path, int, pl.DataFrame]]:
        """(file, rows of the table before, frame of at most `rows` rows; None: the usual)."""
        before = 0
        for file in self._files(name):
            last = 0
            for row, frame in read_parquet_chunks(file, columns, rows):
                for column in columns:
                    require_dtype(file, frame.schema, column, "wholes" if column in LISTS else "whole")
                yield file, before + row, frame
                last = row + len(frame)
            before += last
        if not before:
            raise InputError(f"{self.root}: the table {name} holds no rows")

    def _files(self, name: str) -> list[Path]:
        files = sorted(self.root.glob(f"{name}*.parquet")) or sorted((self.root / name).glob("*.parquet"))
        if not files:
            raise InputError(f"{self.root}: no {name}.parquet, {name}*.parquet or folder {name} of parquet parts")
        return files


def _event(ts: pl.Expr, split: pl.Expr) -> list[pl.Expr]:
    click, both = pl.col("label_0").list.get(1, null_on_oob=True), pl.col("label_0").list.sum()
    return [
        pl.col("129_1").alias("user_id"),
        pl.col("205").alias("item_id"),
        ts.alias("ts"),
        pl.when(both == 1).then(click).alias("label"),
        pl.lit(None, pl.Int8).alias("action"),
        pl.lit(True).alias("sample"),
        pl.col("history_row").fill_null(0).cast(pl.Int64),
        split.alias("split"),
        *(pl.col(name).alias(f"user_{name}") for name in USER_ATTRIBUTES),
    ]
