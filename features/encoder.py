"""The fitted feature encoder: vocabularies, buckets and normalisers, learnt from train rows only."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.arrays import open_array
from data.dataset import Dataset
from data.errors import InputError
from features import columns
from features.codebooks import Codebooks
from features.columns import Buckets, Codes, Normaliser, entity_of
from features.histories import SeenInTraining
from features.semantic_codes import fit_codebooks
from features.spec import (
    SAME,
    SEARCHES_QUERY,
    BucketFeature,
    DenseFeature,
    FeatureSpec,
    IdFeature,
    Sequence,
    Side,
    code_names,
    side_name,
)
from features.surprise import COLUMN as SURPRISE
from features.vector_source import VectorSource
from features.vocabulary import Vocabulary

FIT_ROWS = 2_000_000
BEHAVIOR_COLUMNS = ("action", "age", "position")


class FeatureEncoder:
    """Turns dataset columns into table rows (row 0 = OOV) and numbers.

    Attributes:
        spec: the feature specification it was fitted for.
        vocabularies: by table. buckets: by lookup name. normalisers: by dense feature. codebooks: by
            vectors that have codes.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        vocabularies: dict[str, Vocabulary],
        buckets: dict[str, Buckets],
        normalisers: dict[str, Normaliser],
        codebooks: dict[str, Codebooks],
    ) -> None:
        self.spec, self.vocabularies, self.buckets, self.normalisers = spec, vocabularies, buckets, normalisers
        self.codebooks = codebooks
        self._code_rows = {n: codebooks[v.name].rows for v in spec.vectors if v.codes for n in code_names(v)}

    @classmethod
    def fit(
        cls, spec: FeatureSpec, dataset: Dataset, sources: dict[str, VectorSource] | None = None
    ) -> "FeatureEncoder":
        """Learn from the train split. Memory: entities plus at most FIT_ROWS rows of the numeric columns.

        `sources`: the opened stores by name, for vectors whose codes are asked for.
        Raises InputError for columns that are absent or of the wrong kind.
        """
        fitting = _Fitting(spec, dataset)
        fitting.require_numbers()
        coded = {v.name: v for v in spec.vectors if v.codes}
        codebooks = {name: fit_codebooks(v, (sources or {})[name], dataset) for name, v in coded.items()}
        return cls(spec, fitting.vocabularies(), fitting.buckets(), fitting.normalisers(), codebooks)

    @classmethod
    def grown(cls, before: "FeatureEncoder", dataset: Dataset) -> "FeatureEncoder":
        """The encoder of the next training, on newer data: vocabularies grow and shrink, all else keeps its meaning.

        Values of at least `min_count` train impressions join; those unseen in `evict_after` trainings in a row go.
        """
        fitting = _Fitting(before.spec, dataset)
        fitting.require_numbers()
        admitted, seen = fitting.vocabularies(), fitting.vocabularies(min_count=1)
        vocabularies = {
            table: own.grown(admitted[table], seen[table].values, before.spec.table(table).evict_after)
            for table, own in before.vocabularies.items()
        }
        return cls(before.spec, vocabularies, before.buckets, before.normalisers, before.codebooks)

    def rows(self, table: str) -> int:
        """Rows of an embedding table."""
        if table in self.vocabularies:
            return self.vocabularies[table].rows
        if table in self._code_rows:
            return self._code_rows[table]
        return max(self.buckets[name].rows for t, name in self.spec.lookups() if t == table)

    def codes(self, feature: IdFeature | BucketFeature, series: pl.Series) -> Codes:
        """Table rows of a raw column."""
        if isinstance(feature, BucketFeature):
            return Codes(self.buckets[feature.name].encode(columns.floats(series)))
        codes = columns.encode_ids(series, self.vocabularies[feature.table or feature.name])
        if (codes.offsets is not None) != (feature.kind == "ids"):
            holds, needs = ("lists", "ids") if codes.offsets is not None else ("single values", "id")
            raise InputError(f"feature {feature.name!r}: column {feature.column!r} holds {holds}: use kind: {needs}")
        return codes

    def side_codes(self, sequence: Sequence, feature: Side, values: np.ndarray) -> np.ndarray:
        """Table rows (int32) of a sequence's side feature."""
        name = side_name(sequence, feature)
        if isinstance(feature, BucketFeature):
            return self.buckets[name].encode(values.astype(np.float64))
        return self.vocabularies[feature.table or name].encode(values)

    def dense(self, feature: DenseFeature, values: np.ndarray, per: np.ndarray | None) -> np.ndarray:
        """Normalised float32 values of a dense feature."""
        norm = self.normalisers[feature.name]
        out = columns.transformed(feature, values, per, norm.prior)
        out = np.where(np.isfinite(out), out, norm.mean)
        return ((out - norm.mean) / norm.scale if feature.standardise else out).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write encoder.json and one .npy a vocabulary and codebook (no pickle) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for table, vocabulary in self.vocabularies.items():
            np.save(folder / f"vocabulary-{table}.npy", vocabulary.values)
            if vocabulary.idle is not None:
                np.save(folder / f"idle-{table}.npy", vocabulary.idle)
        for name, codebooks in self.codebooks.items():
            np.save(folder / f"codes-{name}.npy", codebooks.centroids_LKM)
        (folder / "encoder.json").write_text(json.dumps(self._facts(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "FeatureEncoder":
        """Read what `save` wrote.

        Raises InputError if the folder holds no encoder.
        """
        path = folder / "encoder.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; the run holds no fitted feature encoder")
        facts = json.loads(path.read_text())
        vocabularies = {
            table: Vocabulary(
                np.array(open_array(folder / f"vocabulary-{table}.npy")),
                v["rows"],
                v["hashed"],
                np.array(open_array(path)) if (path := folder / f"idle-{table}.npy").is_file() else None,
            )
            for table, v in facts["vocabularies"].items()
        }
        spec = FeatureSpec.model_validate(facts["spec"])
        return cls(
            spec,
            vocabularies,
            {name: Buckets(np.array(cuts, np.float64)) for name, cuts in facts["buckets"].items()},
            {name: Normaliser(**norm) for name, norm in facts["normalisers"].items()},
            {v.name: Codebooks(np.array(open_array(folder / f"codes-{v.name}.npy"))) for v in spec.vectors if v.codes},
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that gives rows their meaning; two models with the same one are compatible."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        for table in sorted(self.vocabularies):
            digest.update(np.ascontiguousarray(self.vocabularies[table].values).tobytes())
        for name in sorted(self.codebooks):
            digest.update(np.ascontiguousarray(self.codebooks[name].centroids_LKM).tobytes())
        return digest.hexdigest()

    def _facts(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(mode="json"),
            "vocabularies": {t: {"rows": v.rows, "hashed": v.hashed} for t, v in self.vocabularies.items()},
            "buckets": {name: b.cuts.tolist() for name, b in self.buckets.items()},
            "normalisers": {
                n: {"prior": v.prior, "mean": v.mean, "scale": v.scale} for n, v in self.normalisers.items()
            },
        }


class _Fitting:
    """What fitting needs to look at, read once."""

    def __init__(self, spec: FeatureSpec, dataset: Dataset) -> None:
        self.spec, self.dataset = spec, dataset
        self.tables = {"item": dataset.items().collect(), "user": dataset.users().collect()}
        self.weights = {entity: dataset.train_counts(entity) for entity in ("item", "user")}
        total = dataset.meta["counts"]["train"]
        every = max(1, -(-total // FIT_ROWS))
        self.train = dataset.samples("train").gather_every(every)
        self.schema = set(dataset.meta["sample_columns"])
        self._seen = SeenInTraining(dataset)

    def vocabularies(self, min_count: int | None = None) -> dict[str, Vocabulary]:
        """One per table that holds ids, of the values counted `min_count` times (None: what the table asks for)."""
        found = {}
        for table, features in self._counted.items():
            settings = self.spec.table(table)
            found[table] = columns.fit_vocabulary(features, min_count or settings.min_count, settings.hash_rows)
        return found

    @cached_property
    def _counted(self) -> dict[str, list]:
        """By table, (feature, distinct values, counts) of every feature of ids."""
        counted: dict[str, list] = {}
        for feature in self.spec.features:
            if isinstance(feature, IdFeature):
                counted.setdefault(feature.table or feature.name, []).append((feature, *self._count(feature)))
        for sequence in self.spec.sequences:
            for feature in sequence.side:
                if isinstance(feature, IdFeature):
                    table = feature.table or side_name(sequence, feature)
                    counted.setdefault(table, []).append((feature, *self._count_side(feature)))
        if self.spec.searches:
            table = self.spec.searches.table or SEARCHES_QUERY
            counted.setdefault(table, []).append(self._count_queries(table))
        return counted

    def buckets(self) -> dict[str, Buckets]:
        """One per bucketed feature, under its lookup name."""
        found = {
            f.name: columns.cut_points(f, self._numbers(f.column)[0])
            for f in self.spec.features
            if isinstance(f, BucketFeature)
        }
        for sequence in self.spec.sequences:
            for feature in sequence.side:
                if isinstance(feature, BucketFeature):
                    found[side_name(sequence, feature)] = self._side_buckets(feature)
        return found

    def normalisers(self) -> dict[str, Normaliser]:
        """One per dense feature."""
        return {f.name: self._normaliser(f) for f in self.spec.features if isinstance(f, DenseFeature)}

    def _normaliser(self, feature: DenseFeature) -> Normaliser:
        values, weights = self._numbers(feature.column)
        per, prior = None, 0.0
        if feature.per is not None:
            per, _ = self._numbers(feature.per)
            if len(per) != len(values):
                raise InputError(f"feature {feature.name!r}: column and per must live in the same table")
            prior = float(np.nansum(values) / max(float(np.nansum(per)), 1.0))
        return Normaliser(prior, *columns.dense_mean_scale(columns.transformed(feature, values, per, prior), weights))

    def _count(self, feature: IdFeature) -> tuple[np.ndarray, np.ndarray]:
        """(distinct values, train impressions; behaviours too for a field of a sequence) of an id column."""
        column, entity = feature.column, entity_of(feature.column)
        if entity != "sample":
            counts = self.weights[entity]
            if any(feature.name in sequence.fields for sequence in self.spec.sequences):
                counts = counts + self._behaved
            return columns.count_values(columns.entity_column(self.tables[entity], column), counts)
        self._require(column)
        counts = self.dataset.samples("train").group_by(column).len().drop_nulls().collect(engine="streaming")
        return columns.raw_values(counts[column]), counts["len"].to_numpy()

    def _count_queries(self, table: str) -> tuple[IdFeature, np.ndarray, np.ndarray]:
        """Distinct texts of train queries and their train impressions; of a log without texts, none."""
        texts = IdFeature(kind="id", name=SEARCHES_QUERY, column="query", table=table)
        if "query" not in self.schema:
            return texts, np.empty(0, np.str_), np.empty(0, np.int64)
        return texts, *self._count(texts)

    @cached_property
    def _behaved(self) -> np.ndarray:
        """Behaviours of every item that train samples see; (items,) int64."""
        items, counts = self.dataset.behaviors().item, np.zeros(len(self.weights["item"]), np.int64)
        for at in self._seen:
            counts += np.bincount(items[at], minlength=len(counts))
        return counts

    def _numbers(self, column: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(values, weights) of a numeric column over train rows (of an entity: by its train impressions)."""
        entity = entity_of(column)
        if entity != "sample":
            return columns.floats(columns.entity_column(self.tables[entity], column)), self.weights[entity]
        if column.startswith("history."):
            from features.samples import history_counts

            return history_counts(self.dataset, self.train, column), None
        self._require(column)
        return columns.floats(self.train.select(column).collect(engine="streaming")[column]), None

    def require_numbers(self) -> None:
        """Raise InputError if a sequence asks for a number that the behaviours do not have."""
        known = [*BEHAVIOR_COLUMNS, SURPRISE, *self.dataset.behaviors().side]
        for sequence in self.spec.sequences:
            for column in sequence.numbers:
                if column not in known and not column.startswith(SAME):
                    raise InputError(
                        f"sequence {sequence.name!r}: no number {column!r} (there are: {', '.join(known)})"
                    )

    def _require(self, column: str) -> None:
        columns.pick(pl.DataFrame(schema={name: pl.Null for name in sorted(self.schema)}), column, "samples")

    def _count_side(self, feature: IdFeature) -> tuple[np.ndarray, np.ndarray]:
        """(distinct values, behaviours) of a whole-number column, over the behaviours that train samples see."""
        behaviors = self.dataset.behaviors()
        whole = {name: v for name, v in behaviors.side.items() if v.dtype.kind in "iu"} | {"action": behaviors.action}
        if feature.column not in whole:
            raise InputError(
                f"side feature {feature.name!r}: {feature.column!r} is no whole-number column of the behaviours "
                f"(those are: {', '.join(sorted(whole))})"
            )
        parts = [np.unique(whole[feature.column][at], return_counts=True) for at in self._seen]
        values, inverse = np.unique(np.concatenate([v for v, _ in parts]).astype(np.int64), return_inverse=True)
        return values, np.bincount(inverse, np.concatenate([n for _, n in parts]), minlength=len(values))

    def _side_buckets(self, feature: BucketFeature) -> Buckets:
        behaviors = self.dataset.behaviors()
        known = [*BEHAVIOR_COLUMNS, *behaviors.side]
        if feature.column not in known:
            raise InputError(
                f"side feature {feature.name!r}: no column {feature.column!r} (there are: {', '.join(known)})"
            )
        if feature.column == "age" and not self.dataset.timed_histories:
            raise InputError(f"side feature {feature.name!r}: this dataset's behaviours have an order but no times")
        if feature.boundaries is not None:
            return columns.cut_points(feature, np.empty(0))
        if feature.column in BEHAVIOR_COLUMNS:
            raise InputError(f"side feature {feature.name!r}: {feature.column!r} needs boundaries, not quantiles")
        every = max(1, self._seen.total // FIT_ROWS)
        values = [behaviors.side[feature.column][at[::every]] for at in self._seen]
        return columns.cut_points(feature, np.concatenate(values).astype(np.float64))
