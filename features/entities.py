"""Items and users, encoded once: the codes and numbers that samples pick from."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from features import columns
from features.columns import Codes, entity_of
from features.encoder import FeatureEncoder
from features.spec import BucketFeature, DenseFeature, FeatureSpec, IdFeature


@dataclass(frozen=True)
class Entities:
    """Encoded items (or users).

    Attributes:
        size: how many. codes: table rows by look-up feature, one entry an entity.
        numbers: float64 (size,) by dense column, NaN for null.
    """

    size: int
    codes: dict[str, Codes]
    numbers: dict[str, np.ndarray]

    def take(self, at: np.ndarray) -> "Entities":
        """The entities `at` (n,), in that order."""
        codes = {name: codes.take(at) for name, codes in self.codes.items()}
        return Entities(len(at), codes, {column: values[at] for column, values in self.numbers.items()})

    def followed_by(self, other: "Entities") -> "Entities":
        """These entities and then the `other` ones."""
        codes = {name: Codes.joined([codes, other.codes[name]]) for name, codes in self.codes.items()}
        numbers = {column: np.concatenate([v, other.numbers[column]]) for column, v in self.numbers.items()}
        return Entities(self.size + other.size, codes, numbers)


def encode_entities(encoder: FeatureEncoder, kind: str, table: pl.DataFrame) -> Entities:
    """Encode a table of entities; `kind` is 'item' or 'user'.

    Raises InputError for columns that are absent or of the wrong kind.
    """
    codes = {
        feature.name: encoder.codes(feature, columns.entity_column(table, feature.column))
        for feature in encoder.spec.features
        if isinstance(feature, IdFeature | BucketFeature) and entity_of(feature.column) == kind
    }
    numbers = {
        column: columns.floats(columns.entity_column(table, column))
        for column in dense_columns(encoder.spec)
        if entity_of(column) == kind
    }
    return Entities(len(table), codes, numbers)


def dense_columns(spec: FeatureSpec) -> list[str]:
    """Columns that dense features read, each once."""
    dense = [f for f in spec.features if isinstance(f, DenseFeature)]
    return list(dict.fromkeys([f.column for f in dense] + [f.per for f in dense if f.per is not None]))
