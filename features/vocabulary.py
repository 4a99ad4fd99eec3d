"""Vocabularies: raw values -> rows of an embedding table. Row 0 is always OOV (unknown, rare or null)."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.errors import InputError

OOV = 0


@dataclass(frozen=True)
class Vocabulary:
    """A value's row: its place in the sorted `values` plus one, or a hash; everything else is row 0.

    Attributes:
        values: sorted distinct values with a row of their own (int64 or str array); empty when hashing.
        rows: rows of the table, OOV included.
        hashed: rows come from a hash of the value, not from `values`.
        idle: of a vocabulary that grew: trainings in a row that did not see each of `values`; None: all were seen.
    """

    values: np.ndarray
    rows: int
    hashed: bool = False
    idle: np.ndarray | None = None

    @classmethod
    def fit(cls, values: np.ndarray, counts: np.ndarray, min_count: int) -> "Vocabulary":
        """Keep the distinct `values` that were counted at least `min_count` times."""
        kept = np.sort(values[counts >= min_count])
        return cls(kept, len(kept) + 1)

    @classmethod
    def hashing(cls, rows: int) -> "Vocabulary":
        """Rows 1..rows-1 by hash; only nulls are OOV."""
        return cls(np.empty(0, np.int64), rows, hashed=True)

    def grown(self, admitted: "Vocabulary", seen: np.ndarray, evict_after: int | None) -> "Vocabulary":
        """The vocabulary of the next training: the values of `admitted` join, and those go that were not among the
        `seen` ones in this and the trainings before, `evict_after` in a row (None: none goes).

        Raises InputError where text meets numbers.
        """
        if self.hashed:
            return self
        if len(self.values) and len(admitted.values) and self.values.dtype.kind != admitted.values.dtype.kind:
            raise InputError("a vocabulary of text cannot grow by numbers, nor one of numbers by text")
        idle = np.zeros(len(self.values), np.int64) if self.idle is None else self.idle
        idle = np.where(np.isin(self.values, seen), 0, idle + 1)
        kept = np.ones(len(idle), bool) if evict_after is None else idle < evict_after
        values = np.union1d(self.values[kept], admitted.values)
        left = np.zeros(len(values), np.int64)
        left[np.searchsorted(values, self.values[kept])] = idle[kept]
        return Vocabulary(values, len(values) + 1, idle=left)

    def rows_in(self, before: "Vocabulary") -> np.ndarray:
        """Row (rows,) int64 that each of our rows had in `before`, -1 where it had none; OOV stays OOV."""
        found = np.concatenate(([OOV], before.encode(self.values))).astype(np.int64)
        found[1:][found[1:] == OOV] = -1
        return found

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Rows (int32) of raw values; same shape. Strings compare as text, numbers as int64."""
        if self.hashed:
            return (1 + _hash(values) % np.uint64(self.rows - 1)).astype(np.int32)
        if len(self.values) == 0 or len(values) == 0:
            return np.zeros(len(values), np.int32)
        place = np.searchsorted(self.values, values)
        place[place == len(self.values)] = 0
        return np.where(self.values[place] == values, place + 1, OOV).astype(np.int32)

    def encode_series(self, series: pl.Series) -> np.ndarray:
        """Rows (int32) of a polars column; null is OOV, text is looked up once per distinct value."""
        if series.dtype != pl.String and not series.null_count():
            return self.encode(raw_values(series))
        rows = np.zeros(len(series), np.int32)
        known = series.is_not_null().to_numpy()
        present = series.drop_nulls()
        if present.dtype == pl.String:
            distinct = present.unique()
            present = present.replace_strict(distinct, self.encode(raw_values(distinct)), return_dtype=pl.Int32)
            rows[known] = present.to_numpy()
        else:
            rows[known] = self.encode(raw_values(present))
        return rows


def raw_values(series: pl.Series) -> np.ndarray:
    """A column without nulls as int64 or str array.

    Raises InputError where the column is neither whole numbers, booleans nor text.
    """
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return np.array(series.cast(pl.String).to_list(), dtype=np.str_)
    if series.dtype.is_integer() or series.dtype == pl.Boolean:
        return series.cast(pl.Int64).to_numpy()
    raise InputError(
        f"column {series.name!r} is {series.dtype}: an id needs whole numbers or text (for numbers use kind: bucket)"
    )


def _hash(values: np.ndarray) -> np.ndarray:
    """A 64-bit hash that is the same on every machine and in every process (splitmix64; FNV-1a for text)."""
    if values.dtype.kind in "iub":
        mixed = values.astype(np.int64).view(np.uint64)
    else:
        texts, inverse = np.unique(values.astype(str), return_inverse=True)
        mixed = np.array([_fnv1a(text.encode()) for text in texts], np.uint64)[inverse]
    mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _fnv1a(data: bytes) -> int:
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state
