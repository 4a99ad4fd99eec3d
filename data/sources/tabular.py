"""A user's own logs: parquet or CSV files plus a column map (`data.column_map`, docs/tabular.md)."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from data.column_map import BehaviorFiles, BehaviorRule, ColumnMap, EventColumns, Kind, rule_column, rule_expression
from data.config import load_config
from data.errors import InputError
from data.source import About, Chunk, Split, one_line, read_csv_chunks, read_parquet_chunks

KINDS: dict[Kind, pl.DataType] = {"whole": pl.Int64(), "number": pl.Float32(), "text": pl.String()}
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
OPTIONAL = {"request_id": pl.Int64(), "position": pl.Int16(), "propensity": pl.Float32(), "query": pl.String()}


class Tabular:
    """Reads what the column map names, relative to `root`."""

    def __init__(self, root: Path, columns: Path | None = None) -> None:
        if columns is None:
            raise InputError("source tabular needs --columns FILE, a YAML column map (docs/tabular.md)")
        self.root, self.map = root, load_config(columns, ColumnMap)
        self._id_types = {entity: self._id_type(entity) for entity in ("user", "item")}

    @property
    def about(self) -> About:
        rows = self.map.impressions
        split = self.map.split
        return About(
            name=self.map.name,
            label=rows.label,
            actions=tuple(b.action for b in self.map.behaviors),
            split=Split(rule=split.rule, train=split.train, valid=split.valid, cuts=split.cuts),
            context={name: KINDS[kind] for name, kind in rows.context.items()},
            images=tuple(s.model_dump() | {"path": str((self.root / s.path).resolve())} for s in self.map.images),
        )

    def items(self) -> pl.DataFrame:
        """The catalogue, or no rows: then items are those of the log."""
        catalogue = self.map.catalogue
        if catalogue is None:
            return pl.DataFrame(schema={"item_id": self._id_types["item"]})
        names = ("title", "category", "brand", "seller", "price", "image_key")
        known = {name: getattr(catalogue, name) for name in names if getattr(catalogue, name)}
        return self._entity_table(catalogue.files, "item", catalogue.item, known, catalogue.columns)

    def users(self) -> pl.DataFrame | None:
        """The user table, if there is one."""
        users = self.map.users
        return users and self._entity_table(users.files, "user", users.user, {}, users.columns)

    def chunks(self) -> Iterator[Chunk]:
        """Impressions, the behaviours among them, then the behaviours of other files."""
        rules = [(code, b) for code, b in enumerate(self.map.behaviors) if isinstance(b, BehaviorRule)]
        rows = self.map.impressions
        optional = {name: getattr(rows, name) for name in OPTIONAL if getattr(rows, name)}
        wanted = [rows.user, rows.item, rows.ts, rule_column(rows.label), *optional.values(), *rows.context]
        wanted += [rule_column(b.when) for _, b in rules]
        for file, row, frame in self._frames(rows.files, wanted):
            label = pl.col(rows.label) if rows.label in frame.columns else rule_expression(rows.label).cast(pl.Int8)
            extra = [pl.col(source).cast(OPTIONAL[name]).alias(name) for name, source in optional.items()]
            extra += [pl.col(name).cast(KINDS[kind]) for name, kind in rows.context.items()]
            base = [*self._base(rows, frame, file), label.cast(pl.Float64).alias("label"), *extra]
            samples = self._select(file, row, frame, [*base, _action(None), pl.lit(True).alias("sample")])
            yield Chunk(samples, file, row)
            for code, behavior in rules:
                found = self._filter(file, row, frame, behavior.when)
                if len(found):
                    events = [*base, _action(code), pl.lit(False).alias("sample")]
                    yield Chunk(self._select(file, row, found, events), file, row)
        empty = {name: pl.lit(None, dtype) for name, dtype in OPTIONAL.items() if name in optional}
        empty |= {name: pl.lit(None, KINDS[kind]) for name, kind in rows.context.items()}
        nothing = [pl.lit(None, pl.Float64).alias("label"), *(value.alias(name) for name, value in empty.items())]
        for code, behavior in enumerate(self.map.behaviors):
            if isinstance(behavior, BehaviorFiles):
                yield from self._behaviors(code, behavior, nothing)

    def _behaviors(self, code: int, behavior: BehaviorFiles, nothing: list[pl.Expr]) -> Iterator[Chunk]:
        wanted = [behavior.user, behavior.item, behavior.ts, *([rule_column(behavior.when)] if behavior.when else [])]
        for file, row, frame in self._frames(behavior.files, wanted):
            found = self._filter(file, row, frame, behavior.when) if behavior.when else frame
            base = self._base(behavior, frame, file)
            events = [*base, *nothing, _action(code), pl.lit(False).alias("sample")]
            if len(found):
                yield Chunk(self._select(file, row, found, events), file, row)

    def _base(self, columns: EventColumns, frame: pl.DataFrame, file: Path) -> list[pl.Expr]:
        return [
            pl.col(columns.user).cast(self._id_types["user"]).alias("user_id"),
            pl.col(columns.item).cast(self._id_types["item"]).alias("item_id"),
            _seconds(columns, frame.schema[columns.ts], file).alias("ts"),
        ]

    def _select(self, file: Path, row: int, frame: pl.DataFrame, columns: list[pl.Expr]) -> pl.DataFrame:
        try:
            return frame.select(columns)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{file}, rows from {row}: a column does not fit its kind: {one_line(error)}") from None

    def _filter(self, file: Path, row: int, frame: pl.DataFrame, rule: str) -> pl.DataFrame:
        try:
            return frame.filter(rule_expression(rule))
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{file}, rows from {row}: rule {rule!r} does not fit: {one_line(error)}") from None

    def _entity_table(
        self, globs: str | tuple[str, ...], entity: str, key: str, known: dict[str, str], more: tuple[str, ...]
    ) -> pl.DataFrame:
        frames = [frame for _, _, frame in self._frames(globs, [key, *known.values(), *more])]
        table = pl.concat(frames, how="vertical_relaxed")
        renamed = [pl.col(source).alias(name) for name, source in known.items()]
        kept = [pl.col(name) for name in more if name not in known]
        return table.select(pl.col(key).cast(self._id_types[entity]).alias(f"{entity}_id"), *renamed, *kept)

    def _id_type(self, entity: str) -> pl.DataType:
        """Text if any file holds the ids as text, else whole numbers."""
        named = (self.map.impressions, *self.map.behaviors, self.map.catalogue, self.map.users)
        tables = [(m.files, getattr(m, entity)) for m in named if m and hasattr(m, "files") and hasattr(m, entity)]  # pyright: ignore[reportAttributeAccessIssue]
        found: pl.DataType = pl.Int64()
        for globs, column in tables:
            file = self._files(globs)[0]
            _, frame = next(iter(_chunks(file, [column])), (0, pl.DataFrame({column: [0]})))
            dtype = frame.schema[column]
            if not (dtype.is_integer() or dtype == pl.String):
                raise InputError(f"{file}: column {column!r} is {dtype}; an id must be whole numbers or text")
            found = pl.String() if dtype == pl.String else found
        return found

    def _files(self, globs: str | tuple[str, ...]) -> list[Path]:
        files: list[Path] = []
        for pattern in (globs,) if isinstance(globs, str) else globs:
            matches = sorted(self.root.glob(pattern))
            if not matches:
                raise InputError(f"{self.root}: no file matches {pattern!r}")
            files += matches
        return files

    def _frames(self, globs: str | tuple[str, ...], columns: list[str]) -> Iterator[tuple[Path, int, pl.DataFrame]]:
        """(file, first row, frame) over all files."""
        for file in self._files(globs):
            for row, frame in _chunks(file, list(dict.fromkeys(columns))):
                yield file, row, frame


def _chunks(file: Path, columns: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    if file.suffix == ".parquet":
        return read_parquet_chunks(file, columns)
    if file.suffix in (".csv", ".tsv", ".txt", ".gz"):
        return read_csv_chunks(file, columns)
    raise InputError(f"{file}: ends with {file.suffix!r}; give .parquet or .csv files")


def _action(code: int | None) -> pl.Expr:
    return pl.lit(code, pl.Int8).alias("action")


def _seconds(columns: EventColumns, dtype: pl.DataType, file: Path) -> pl.Expr:
    """Unix seconds (Int64) of the time column."""
    ts = pl.col(columns.ts)
    if columns.ts_unit == "datetime":
        if dtype == pl.String:
            return ts.str.to_datetime(strict=False, time_zone="UTC").dt.epoch("s")
        if isinstance(dtype, pl.Datetime | pl.Date):
            return ts.cast(pl.Datetime("us")).dt.epoch("s")
        raise InputError(f"{file}: column {columns.ts!r} is {dtype}; ts_unit datetime needs a datetime, a date or text")
    if not dtype.is_numeric():
        raise InputError(f"{file}: column {columns.ts!r} is {dtype}; ts_unit {columns.ts_unit} needs numbers")
    return (
        (ts.cast(pl.Float64) if dtype.is_float() else ts.cast(pl.Int64))
        .floordiv(PER_SECOND[columns.ts_unit])
        .cast(pl.Int64, strict=False)
    )
