"""A user's own logs: parquet or CSV files plus a column map (`data.column_map`, docs/tabular.md)."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from data.column_map import BehaviorFiles, BehaviorRule, ColumnMap, EventColumns, Kind, rule_column, rule_expression
from data.config import load_config
from data.errors import InputError
from data.source import (
    About,
    Chunk,
    Split,
    one_line,
    read_csv_chunks,
    read_parquet_chunks,
    read_schema,
    require_columns,
    require_dtype,
)

KINDS: dict[Kind, pl.DataType] = {"whole": pl.Int64(), "number": pl.Float32(), "text": pl.String()}
YEAR = 31_536_000  # seconds
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
OPTIONAL = {"request_id": pl.Int64(), "position": pl.Int16(), "propensity": pl.Float32(), "query": pl.String()}
OPTIONAL |= {"query_image": pl.String()}


class Tabular:
    """Reads what the column map names, relative to `root`."""

    def __init__(self, root: Path, columns: Path | None = None) -> None:
        if columns is None:
            raise InputError("source tabular needs --columns FILE, a YAML column map (docs/tabular.md)")
        self.root, self.map = root, load_config(columns, ColumnMap)
        for store in self.map.images:
            path = root / store.path
            if not (path.is_dir() if store.kind == "dir" else path.is_file()):
                raise InputError(f"{columns}: images: {path}: no such {'folder' if store.kind == 'dir' else 'file'}")
        self._schemas: dict[Path, dict[str, pl.DataType]] = {}
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
        texts = [source for name, source in optional.items() if name.startswith("query")]
        texts += [name for name, kind in rows.context.items() if kind == "text"]
        whole = [source for name, source in optional.items() if OPTIONAL[name].is_integer()]
        whole += [name for name, kind in rows.context.items() if kind == "whole"]
        for file, row, frame in self._frames(rows.files, wanted, self._text_ids(rows) + texts):
            _require_whole(file, row, frame.select(list(dict.fromkeys(whole))))
            label = pl.col(rows.label) if rows.label in frame.columns else rule_expression(rows.label).cast(pl.Int8)
            extra = [
                pl.col("_row"),
                *(pl.col(source).cast(OPTIONAL[name]).alias(name) for name, source in optional.items()),
            ]
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

    def pairs(self) -> pl.DataFrame:
        """Pairs of the column map."""
        pairs = self.map.pairs
        if pairs is None:
            return pl.DataFrame(schema={"item_id": self._id_types["item"]})
        known = {"query_text": pairs.query, "query_image": pairs.query_image}
        known = {name: column for name, column in known.items() if column}
        return self._entity_table(pairs.files, "item", pairs.item, known, ())

    def _behaviors(self, code: int, behavior: BehaviorFiles, nothing: list[pl.Expr]) -> Iterator[Chunk]:
        wanted = [behavior.user, behavior.item, behavior.ts, *([rule_column(behavior.when)] if behavior.when else [])]
        for file, row, frame in self._frames(behavior.files, wanted, self._text_ids(behavior)):
            found = self._filter(file, row, frame, behavior.when) if behavior.when else frame
            base = self._base(behavior, frame, file)
            events = [*base, pl.col("_row"), *nothing, _action(code), pl.lit(False).alias("sample")]
            if len(found):
                yield Chunk(self._select(file, row, found, events), file, row)

    def _base(self, columns: EventColumns, frame: pl.DataFrame, file: Path) -> list[pl.Expr]:
        return [
            pl.col(columns.user).cast(self._id_types["user"]).alias("user_id"),
            pl.col(columns.item).cast(self._id_types["item"]).alias("item_id"),
            _seconds(columns, frame[columns.ts], file).alias("ts"),
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
        dtype, frames = self._id_types[entity], []
        for file, row, frame in self._frames(globs, [key, *known.values(), *more], [key] * (dtype == pl.String)):
            if frame[key].null_count():
                at = row + int(frame[key].is_null().arg_max() or 0)
                raise InputError(f"{file} row {at}, column {key!r}: no value; a table row needs its id")
            frames.append(frame)
        if not frames:
            raise InputError(f"{self.root}: {globs!r} holds no rows")
        renamed = [pl.col(source).alias(name) for name, source in known.items()]
        kept = [pl.col(name) for name in more if name not in known]
        columns = [pl.col(key).cast(dtype).alias(f"{entity}_id"), *renamed, *kept]
        return self._select(file, 0, pl.concat(frames, how="vertical_relaxed"), columns)

    def _id_type(self, entity: str) -> pl.DataType:
        """Text if any file holds the ids as text, else whole numbers."""
        named = (self.map.impressions, *self.map.behaviors, self.map.catalogue, self.map.users)
        tables = [(m.files, getattr(m, entity)) for m in named if hasattr(m, "files") and hasattr(m, entity)]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        found: pl.DataType = pl.Int64()
        for globs, column in tables:
            for file in self._files(globs):
                schema = self._schema(file)
                require_columns(file, list(schema), [column])
                require_dtype(file, schema, column, "id")
                found = pl.String() if schema[column] == pl.String else found
        return found

    def _text_ids(self, columns: EventColumns) -> list[str]:
        """Id columns that must be read as text, so that a CSV does not turn 007 into 7."""
        return [getattr(columns, entity) for entity, dtype in self._id_types.items() if dtype == pl.String]

    def _schema(self, file: Path) -> dict[str, pl.DataType]:
        if file not in self._schemas:
            separator = None if file.suffix == ".parquet" else _separator(file)
            self._schemas[file] = read_schema(file, separator)
        return self._schemas[file]

    def _files(self, globs: str | tuple[str, ...]) -> list[Path]:
        files: list[Path] = []
        for pattern in (globs,) if isinstance(globs, str) else globs:
            matches = sorted(self.root.glob(pattern))
            if not matches:
                raise InputError(f"{self.root}: no file matches {pattern!r}")
            files += matches
        return files

    def _frames(
        self, globs: str | tuple[str, ...], columns: list[str], texts: list[str]
    ) -> Iterator[tuple[Path, int, pl.DataFrame]]:
        """(file, first row, frame with `_row`) over all files; CSV columns in `texts` are read as text."""
        for file in self._files(globs):
            for row, frame in _chunks(file, list(dict.fromkeys(columns)), texts):
                yield file, row, frame.with_row_index("_row", row)


def _chunks(file: Path, columns: list[str], texts: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    if file.suffix == ".parquet":
        return read_parquet_chunks(file, columns)
    separator = _separator(file)
    return read_csv_chunks(file, columns, dict.fromkeys(texts, pl.String()), separator=separator)


def _separator(file: Path) -> str:
    """Comma or tab, by the name."""
    name = file.name.removesuffix(".gz")
    if not name.endswith((".csv", ".tsv")):
        raise InputError(f"{file}: ends with {file.suffix!r}; give .parquet, .csv or .tsv files (.csv.gz, .tsv.gz)")
    return "\t" if name.endswith(".tsv") else ","


def _require_whole(file: Path, row: int, frame: pl.DataFrame) -> None:
    """Raise InputError for a fraction where whole numbers are promised: a cast would cut it off."""
    for values in frame.iter_columns():
        if values.dtype.is_float() and (broken := (values != values.floor()).fill_null(False)).any():
            at = int(broken.arg_max() or 0)
            raise InputError(f"{file} row {row + at}, column {values.name!r}: {values[at]} is not a whole number")


def _action(code: int | None) -> pl.Expr:
    return pl.lit(code, pl.Int8).alias("action")


def _seconds(columns: EventColumns, times: pl.Series, file: Path) -> pl.Expr:
    """Unix seconds (Int64) of the time column; text that is no ISO time becomes null."""
    ts, dtype, unit = pl.col(columns.ts), times.dtype, columns.ts_unit
    if unit == "datetime":
        if dtype == pl.String:
            iso = pl.when(ts.str.contains(r"^\d{4}-\d{2}-\d{2}")).then(ts)
            return iso.str.to_datetime(strict=False, time_zone="UTC").dt.epoch("s")
        if isinstance(dtype, pl.Datetime | pl.Date):
            return ts.cast(pl.Datetime("us")).dt.epoch("s")
        raise InputError(f"{file}: column {columns.ts!r} is {dtype}; ts_unit datetime needs a datetime, a date or text")
    if not dtype.is_numeric():
        raise InputError(f"{file}: column {columns.ts!r} is {dtype}; ts_unit {unit} needs numbers")
    if unit != "s" and times.is_between(1, YEAR * PER_SECOND[unit]).any():
        raise InputError(f"{file}: column {columns.ts!r} holds times of 1970 if read in {unit}; is ts_unit s right?")
    number = ts.cast(pl.Float64) if dtype.is_float() else ts.cast(pl.Int64)
    return number.floordiv(PER_SECOND[unit]).cast(pl.Int64, strict=False)
