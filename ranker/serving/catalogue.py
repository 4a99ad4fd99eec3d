"""The items (or users) that a package knows, encoded once and memory-mapped: processes share one copy.

FOLDER/{ids.npy (n,) sorted, order.npy (n,) index of each, codes-F.npy, offsets-F.npy (features of lists),
        numbers-COLUMN.npy, columns.json}
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from data.arrays import open_array
from data.errors import InputError
from features.columns import Codes, entity_of
from features.encoder import FeatureEncoder
from features.entities import Entities, dense_columns, encode_entities
from features.spec import BucketFeature, IdFeature


@dataclass(frozen=True)
class Found:
    """The distinct entities of a batch.

    Attributes:
        entities: them, encoded; unknown ones last. at: (n,) int64, which of them each id is.
        ids: (entities.size,) their ids.
    """

    entities: Entities
    at: np.ndarray
    ids: np.ndarray


_Fresh = tuple[np.ndarray, np.ndarray, Entities]  # entities that came later: ids, their order, encoded


class Catalogue:
    """Finds entities by id. One that is not there is encoded from its id alone, all other columns null."""

    def __init__(self, encoder: FeatureEncoder, kind: str, folder: Path) -> None:
        """`kind`: 'item' or 'user'. Raises InputError for a file that is absent or cut off."""
        self.encoder, self.kind = encoder, kind
        facts = json.loads((folder / "columns.json").read_text())
        self.schema = {name: _parse(dtype) for name, dtype in facts["columns"].items()}
        self._ids, self._order = _opened(folder / "ids.npy"), _opened(folder / "order.npy")
        codes = {
            name: Codes(
                _opened(folder / f"codes-{name}.npy"), _opened(folder / f"offsets-{name}.npy") if ragged else None
            )
            for name, ragged in facts["codes"].items()
        }
        numbers = {column: _opened(folder / f"numbers-{column}.npy") for column in facts["numbers"]}
        self.known = Entities(len(self._ids), codes, numbers)
        self._fresh: _Fresh | None = None

    @property
    def size(self) -> int:
        """Entities it knows, later ones included."""
        return self.known.size + (self._fresh[2].size if self._fresh else 0)

    def learn(self, table: pl.DataFrame) -> int:
        """Know the entities of `table` as well, except those it knows already; returns how many are new.

        Columns that `table` lacks are null. Raises InputError if it has no ids.
        """
        key = f"{self.kind}_id"
        if key not in table.columns:
            raise InputError(f"no column {key!r}; columns: {', '.join(table.columns)}")
        columns = [table[n] if n in table.columns else pl.lit(None, kind).alias(n) for n, kind in self.schema.items()]
        table = table.select(columns).cast(dict(self.schema)).drop_nulls(key).unique(key, maintain_order=True)
        table = table.filter(pl.Series(self._place(_raw(table[key]), self._fresh) < 0, dtype=pl.Boolean))
        ids, fresh = _raw(table[key]), encode_entities(self.encoder, self.kind, table)
        if self._fresh is not None:
            ids, fresh = np.concatenate([self._fresh[0], ids]), self._fresh[2].followed_by(fresh)
        self._fresh = ids, np.argsort(ids), fresh
        return len(table)

    def find(self, ids: np.ndarray) -> Found:
        """The entities of ids (n,)."""
        fresh, known = self._fresh, self.known  # taken once: another thread may learn meanwhile
        place = self._place(ids, fresh)
        index, first, at = np.unique(place, return_index=True, return_inverse=True)
        lost = int(len(index) > 0 and index[0] < 0)
        index, distinct = index[lost:], ids[first[lost:]]
        split = int(np.searchsorted(index, known.size))
        entities = known.take(index[:split])
        if fresh is not None and split < len(index):
            entities = entities.followed_by(fresh[2].take(index[split:] - known.size))
        if lost:
            unknown, which = np.unique(ids[place < 0], return_inverse=True)
            at = at - 1
            at[place < 0] = len(index) + which
            entities = entities.followed_by(self._encoded(unknown))
            distinct = np.concatenate([distinct, unknown])
        return Found(entities, at, distinct)

    def _place(self, ids: np.ndarray, fresh: "_Fresh | None") -> np.ndarray:
        """Index (n,) of each id; -1 for an unknown one."""
        place = _lookup(self._ids, self._order, ids)
        if fresh is not None:
            own, order, _ = fresh
            later = _lookup(own[order], order, ids)
            place = np.where((place < 0) & (later >= 0), later + self.known.size, place)
        return place

    def _encoded(self, ids: np.ndarray) -> Entities:
        key = f"{self.kind}_id"
        nulls = {name: pl.Series(name, [None] * len(ids), dtype) for name, dtype in self.schema.items()}
        return encode_entities(self.encoder, self.kind, pl.DataFrame(nulls | {key: pl.Series(key, ids)}))


def write_catalogue(encoder: FeatureEncoder, kind: str, table: pl.DataFrame, folder: Path) -> None:
    """Encode and write all entities of a dataset.

    Raises InputError if an id is null or occurs twice.
    """
    folder.mkdir(parents=True)
    key = f"{kind}_id"
    wanted = [key, *(c.partition(".")[2] for c in read_columns(encoder, kind) if "." in c)]
    table = table.select(list(dict.fromkeys(wanted)))
    if table[key].null_count():
        raise InputError(f"{kind}s.parquet: {table[key].null_count()} rows have no {key}")
    ids = _raw(table[key])
    order = np.argsort(ids, kind="stable")
    if len(np.unique(ids)) < len(ids):
        raise InputError(f"{kind}s.parquet: {key} is not unique")
    np.save(folder / "ids.npy", ids[order])
    np.save(folder / "order.npy", order.astype(np.int64))
    entities = encode_entities(encoder, kind, table)
    for name, codes in entities.codes.items():
        np.save(folder / f"codes-{name}.npy", codes.values)
        if codes.offsets is not None:
            np.save(folder / f"offsets-{name}.npy", codes.offsets)
    for column, values in entities.numbers.items():
        np.save(folder / f"numbers-{column}.npy", values)
    facts = {
        "columns": {name: _written(dtype) for name, dtype in table.schema.items()},
        "codes": {name: codes.offsets is not None for name, codes in entities.codes.items()},
        "numbers": list(entities.numbers),
    }
    (folder / "columns.json").write_text(json.dumps(facts, indent=1))


def read_columns(encoder: FeatureEncoder, kind: str) -> list[str]:
    """Columns `item`, `item.X` (or `user`, `user.X`) that features read."""
    looked_up = [f.column for f in encoder.spec.features if isinstance(f, IdFeature | BucketFeature)]
    return [c for c in dict.fromkeys([*looked_up, *dense_columns(encoder.spec)]) if entity_of(c) == kind]


def _opened(path: Path) -> np.ndarray:
    """A memory map as a plain array: indexing it is a few times quicker."""
    return np.asarray(open_array(path))


def _lookup(sorted_ids: np.ndarray, order: np.ndarray, ids: np.ndarray) -> np.ndarray:
    if not len(sorted_ids) or not len(ids):
        return np.full(len(ids), -1, np.int64)
    at = np.searchsorted(sorted_ids, ids)
    at[at == len(sorted_ids)] = 0
    return np.where(sorted_ids[at] == ids, order[at], -1)


def _raw(series: pl.Series) -> np.ndarray:
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return np.array(series.cast(pl.String).to_list(), dtype=np.str_)
    return series.to_numpy().astype(np.int64)


KINDS = {str(kind): kind for kind in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
                                      pl.Float32, pl.Float64, pl.String, pl.Boolean)}  # fmt: skip


def _written(dtype: pl.DataType) -> list[str]:
    """A column type as words: the type, preceded by `List` for lists of it."""
    return ["List", *_written(dtype.inner)] if isinstance(dtype, pl.List) else [str(dtype)]  # pyright: ignore


def _parse(words: list[str]) -> pl.DataType:
    return pl.List(_parse(words[1:])) if words[0] == "List" else KINDS[words[0]]()
