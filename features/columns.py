"""Fitted columns: from raw dataset columns to table rows and normalised numbers."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.errors import InputError
from features.histories import ranges
from features.spec import BucketFeature, DenseFeature, IdFeature
from features.vocabulary import Vocabulary, raw_values


@dataclass(frozen=True)
class Codes:
    """Table rows of every entity (or every row) for one feature: one each, or a ragged list.

    Attributes:
        values: int32 rows, one each if `offsets` is None, else all lists end to end.
        offsets: (entities + 1,) int64 or None.
    """

    values: np.ndarray
    offsets: np.ndarray | None = None

    def take(self, at: np.ndarray) -> "Codes":
        """The codes of the entities (or rows) `at`, in that order."""
        if self.offsets is None:
            return Codes(self.values[at])
        start = self.offsets[at]
        lengths = self.offsets[at + 1] - start
        return Codes(self.values[ranges(start, lengths)], np.concatenate(([0], np.cumsum(lengths))))

    @staticmethod
    def joined(parts: "list[Codes]") -> "Codes":
        """Parts one after another."""
        values = np.concatenate([part.values for part in parts])
        lengths = [np.diff(part.offsets) for part in parts if part.offsets is not None]
        return Codes(values, np.concatenate(([0], np.cumsum(np.concatenate(lengths)))) if lengths else None)


@dataclass(frozen=True)
class Buckets:
    """Cuts of a bucketed number: row 0 for null, then one row an interval (left-closed)."""

    cuts: np.ndarray

    @property
    def rows(self) -> int:
        """Rows the table needs."""
        return len(self.cuts) + 2

    def encode(self, values: np.ndarray) -> np.ndarray:
        """int32 rows of float values; NaN is row 0."""
        rows = 1 + np.searchsorted(self.cuts, values, side="right")
        return np.where(np.isnan(values), 0, rows).astype(np.int32)


@dataclass(frozen=True)
class Normaliser:
    """Affine normalisation of a transformed number (if it is standardised); null and NaN become the mean.

    prior: train rate of a smoothed rate (unused without `per`). mean, scale: of the transformed train values.
    """

    prior: float = 0.0
    mean: float = 0.0
    scale: float = 1.0


def entity_of(column: str) -> str:
    """Where a column lives: 'user', 'item' or 'sample'."""
    head = column.split(".")[0]
    return head if head in ("user", "item") else "sample"


def entity_column(table: pl.DataFrame, column: str) -> pl.Series:
    """The values of `user`, `item`, `user.X` or `item.X`, by entity index.

    Raises InputError naming the nearest right column.
    """
    entity, _, name = column.partition(".")
    return pick(table, name or f"{entity}_id", f"{entity}s.parquet")


def pick(table: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column by name; InputError with the nearest right name if it is absent."""
    if name not in table.columns:
        import difflib

        close = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(table.columns)}"
        raise InputError(f"{where}: no column {name!r}; {hint}")
    return table[name]


def encode_ids(series: pl.Series, vocabulary: Vocabulary) -> Codes:
    """Rows of an id column; a list column gives ragged codes, null and empty lists are empty."""
    if series.dtype != pl.List:
        return Codes(vocabulary.encode_series(series))
    lengths = series.list.len().fill_null(0).to_numpy()
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    flat = series.drop_nulls().explode(keep_nulls=True, empty_as_null=False)
    return Codes(vocabulary.encode_series(flat), offsets)


def count_values(series: pl.Series, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct values, summed weights) of an id or list column; weights (len(series),) int64."""
    frame = pl.DataFrame({"value": series, "weight": weights})
    if series.dtype == pl.List:
        frame = frame.explode("value", empty_as_null=False)
    counts = frame.drop_nulls("value").group_by("value").agg(pl.col("weight").sum())
    return raw_values(counts["value"].alias(series.name)), counts["weight"].to_numpy()


def floats(series: pl.Series) -> np.ndarray:
    """A number column as float64 with NaN for null.

    Raises InputError if it is no number.
    """
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        raise InputError(f"column {series.name!r} is {series.dtype}; a dense or bucket feature needs numbers")
    if series.null_count():
        series = series.cast(pl.Float64).fill_null(float("nan"))
    return series.to_numpy().astype(np.float64)


def transformed(feature: DenseFeature, values: np.ndarray, per: np.ndarray | None, prior: float) -> np.ndarray:
    """The feature's rate and transform, before standardising; float64, same shape."""
    if per is not None:
        values = (values + feature.strength * prior) / (per + feature.strength)
    if feature.transform == "log1p":
        return np.log1p(np.maximum(values, 0))
    if feature.transform == "logit":
        clipped = np.clip(values, 1e-6, 1 - 1e-6)
        return np.log(clipped / (1 - clipped))
    return values


def cut_points(feature: BucketFeature, values: np.ndarray) -> Buckets:
    """Buckets of a feature; quantiles are those of the finite `values`."""
    if feature.boundaries is not None:
        return Buckets(np.asarray(feature.boundaries, np.float64))
    assert feature.quantiles is not None
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError(
            f"feature {feature.name!r}: column {feature.column!r} has no finite value to take quantiles of"
        )
    shares = np.arange(1, feature.quantiles) / feature.quantiles
    return Buckets(np.unique(np.quantile(finite, shares)))


def fit_vocabulary(
    features: list[tuple[IdFeature, np.ndarray, np.ndarray]], min_count: int, hash_rows: int | None
) -> Vocabulary:
    """One vocabulary for all features of a table; each comes as (feature, values, counts).

    Raises InputError if one table is asked to hold both text and numbers.
    """
    if hash_rows is not None:
        return Vocabulary.hashing(hash_rows)
    kinds = {values.dtype.kind for _, values, _ in features if len(values)}
    if len(kinds) > 1:
        names = ", ".join(feature.name for feature, _, _ in features)
        raise InputError(f"features {names} share a table, but some hold text and some numbers")
    values, inverse = np.unique(np.concatenate([v for _, v, _ in features]), return_inverse=True)
    counts = np.bincount(inverse, np.concatenate([c for _, _, c in features]), minlength=len(values))
    return Vocabulary.fit(values, counts, min_count)


def dense_mean_scale(values: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Weighted mean and standard deviation (1 where constant) of the finite values."""
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0, 1.0
    kept, weight = values[finite], None if weights is None else weights[finite]
    if weight is not None and not weight.sum():
        weight = None
    mean = float(np.average(kept, weights=weight))
    deviation = float(np.sqrt(np.average((kept - mean) ** 2, weights=weight)))
    return mean, deviation or 1.0
