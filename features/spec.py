"""Feature specifications: what the ranker reads from a prepared dataset, as configuration.

Columns are named by where they live:
  `user`, `item`       the entity itself (its row in users.parquet / items.parquet)
  `user.X`, `item.X`   a column of users.parquet / items.parquet
  `X`                  a column of the samples (context, point-in-time counts, ts, ...)
Inside a sequence: `action`, a side column of the behaviours (e.g. `rating`), `age` (seconds between the
behaviour and the sample) or `position` (1 = the most recent behaviour). Among a sequence's numbers also `surprise`
(features/surprise.py).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.config import Config

SEARCHES, SEARCHES_QUERY = "searches", "searches_query"  # the sequence of searches; the look-up of a query's id
SAME = "same."  # prefix of a number of behaviours: whether the item shares a value with the target
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

COLUMN = "user, item, user.X, item.X, or a column of the samples (moon inspect names them)"


class Table(Config):
    """An embedding table; features that name the same table share its vocabulary and its rows."""

    dim: int = Field(16, ge=1, le=4096, description="width of a row")
    min_count: int = Field(
        1,
        ge=1,
        description="train impressions (and behaviours, where a sequence reads the table) a value needs for a row of "
        "its own; else OOV",
    )
    evict_after: int | None = Field(
        None,
        ge=1,
        description="moon train --init: trainings in a row without the value after which its row goes; None: never",
    )
    hash_rows: int | None = Field(
        None, ge=2, description="hash values into this many rows instead of keeping a vocabulary"
    )
    oov_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of ids replaced by OOV while training, so that its row is a trained average",
    )
    init_std: float | None = Field(None, gt=0, description="standard deviation of the initial rows; None: the recipe's")


class IdFeature(Config):
    """One categorical value (kind `id`) or a list of them, mean-pooled (kind `ids`)."""

    kind: Literal["id", "ids"] = Field(description="id: one value; ids: a list")
    name: Name = Field(description="of the feature, and of its table unless that has one")
    column: str = Field(description=COLUMN)
    table: Name | None = Field(None, description="table to look up in; None: one of the feature's own name")


class BucketFeature(Config):
    """A number cut into buckets that are looked up as ids; null and NaN are OOV."""

    kind: Literal["bucket"] = Field(description="a number, looked up by its bucket")
    name: Name = Field(description="of the feature, and of its table unless that has one")
    column: str = Field(description=COLUMN)
    boundaries: tuple[float, ...] | None = Field(None, description="ascending cuts, in the column's unit")
    quantiles: int | None = Field(None, ge=2, le=1000, description="cut at this many quantiles of train rows")
    table: Name | None = Field(None, description="table to look up in; None: one of the feature's own name")

    @model_validator(mode="after")
    def _one_rule(self) -> "BucketFeature":
        if (self.boundaries is None) == (self.quantiles is None):
            raise ValueError("give exactly one of boundaries, quantiles")
        if self.boundaries is not None and list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError("boundaries must ascend")
        return self


class DenseFeature(Config):
    """A number used as it is: `transform`, then standardised by train mean and deviation if asked.

    With `per`, the smoothed rate (column + strength * prior) / (per + strength); prior = the train rate.
    Null and NaN become the train mean.
    """

    kind: Literal["dense"] = Field(description="a number as it is")
    name: Name = Field(description="of the feature")
    column: str = Field(description=COLUMN + ", or history.ACTION: behaviours before the sample (history.all: any)")
    per: str | None = Field(None, description="denominator column of a smoothed rate")
    strength: float = Field(10.0, gt=0, description="pseudo-count of the prior in a smoothed rate")
    transform: Literal["none", "log1p", "logit"] = Field("none", description="before it is standardised")
    standardise: bool = Field(True, description="subtract the train mean, divide by the train deviation")


Feature = Annotated[IdFeature | BucketFeature | DenseFeature, Field(discriminator="kind")]
Side = Annotated[IdFeature | BucketFeature, Field(discriminator="kind")]


class Sequence(Config):
    """The last `length` behaviours of the user strictly before the sample, of the given actions."""

    name: Name = Field(description="of the sequence; model.sequences refers to it")
    length: int = Field(50, ge=1, description="behaviours kept, most recent")
    actions: tuple[str, ...] | None = Field(None, description="actions kept; None: all")
    fields: tuple[Name, ...] = Field(description="item features that represent a behaviour")
    side: tuple[Side, ...] = Field(
        (),
        description="features of the behaviour itself, on action, age (seconds before the sample), position (1: the "
        "latest) or a column of the behaviours",
    )
    numbers: tuple[str, ...] = Field(
        (),
        description="numbers of a behaviour for mechanisms: surprise, action, age, position, a side column, or "
        "same.FEATURE (1 if its item has the target's value of that item feature, which is known)",
    )


class Searches(Config):
    """The sample's query, and the user's last searches strictly before it: the sequence `searches`.

    A query is represented by the id of its text; its vector comes from features.vectors that are of queries.
    """

    length: int = Field(20, ge=1, description="searches kept, most recent")
    table: Name | None = Field(None, description="table of the queries' ids; None: searches_query, its own")


VectorMode = Literal["frozen", "projected", "finetuned", "end_to_end"]


class Codes(Config):
    """Semantic ids: residual k-means codes of the vectors (features/semantic_codes.py), looked up as ids.

    Level k has the table NAME_codek, whose settings are in `tables` like those of any other.
    """

    levels: int = Field(3, ge=1, le=16, description="codes of an item, each of what the ones before leave over")
    size: int = Field(256, ge=2, le=32_000, description="centroids a level")
    seed: int = Field(0, ge=0, description="of the k-means")


class ItemVectors(Config):
    """Multimodal vectors of the items: a representation store, given at start-up as `--store NAME=DIR`.

    Modes: `frozen` (as stored); `projected` (as stored plus a trained residual MLP of them); `finetuned` (the table is
    trained); `end_to_end` (the encoder itself, `--encoder NAME=DIR`, is trained by the click loss through the target's
    vector; behaviours read the table, which is computed anew by the encoder now and then).
    """

    name: Name = Field(description="of the vectors; model.content refers to it")
    of: Literal["items", "queries"] = Field(
        "items", description="what the store's ids are: items, or queries (a picture's key, else a text)"
    )
    dim: int | None = Field(
        None, ge=1, description="width: a Matryoshka prefix of the stored vectors, scaled to length 1; None: all of it"
    )
    mode: VectorMode = Field("frozen", description="what training does to them")
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of the table (finetuned; None: train.tables.lr), of the MLP (projected; None: "
        "train.dense.lr) or of the encoder (end_to_end; None: train.dense.lr)",
    )
    refresh_steps: int | None = Field(
        None,
        ge=1,
        description="end_to_end: steps between refreshes of the whole table; None: only at the start and at "
        "evaluations, which refresh it in any case",
    )
    projection: tuple[int, ...] = Field((128,), min_length=1, description="projected: hidden widths of the MLP")
    codes: Codes | None = Field(None, description="semantic ids of the vectors as stored; None: none")
    shuffle: int | None = Field(
        None, ge=0, description="seed: permute the vectors among the items that have one (a control without content)"
    )


class FeatureSpec(Config):
    """All inputs of a ranker."""

    features: tuple[Feature, ...] = Field(description="of the sample, its user and its item")
    sequences: tuple[Sequence, ...] = Field((), description="behaviours of the user, strictly before the sample")
    searches: Searches | None = Field(None, description="the sample's query and earlier ones; None: not read")
    vectors: tuple[ItemVectors, ...] = ()
    tables: dict[Name, Table] = Field(default_factory=dict, description="tables that differ from the defaults")
    default_table: Table = Field(Table(), description="settings of all other tables")  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureSpec":
        names = [f.name for f in self.features] + [s.name for s in self.sequences]
        names += [side_name(s, f) for s in self.sequences for f in s.side]
        names += [SEARCHES, SEARCHES_QUERY] if self.searches else []
        names += [name for v in self.vectors for name in (v.name, *code_names(v))]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"names used twice: {', '.join(twice)}")
        items = {f.name for f in self.features if is_item(f)}
        for sequence in self.sequences:
            wrong = [f for f in sequence.fields if f not in items]
            if wrong:
                raise ValueError(
                    f"sequence {sequence.name!r}: field {wrong[0]!r} is no item feature "
                    f"(those are: {', '.join(sorted(items))})"
                )
        whole = {f.name for f in self.features if is_item(f) and f.kind in ("id", "bucket")}
        for sequence in self.sequences:
            for number in sequence.numbers:
                if number.startswith(SAME) and number.removeprefix(SAME) not in whole:
                    raise ValueError(
                        f"sequence {sequence.name!r}: {number!r} needs an item feature of one value "
                        f"(those are: {', '.join(sorted(whole))})"
                    )
        cut = {f.name for f in self.features if isinstance(f, BucketFeature)}
        cut |= {side_name(s, f) for s in self.sequences for f in s.side if isinstance(f, BucketFeature)}
        for table in self.tables_in_use():
            users = [name for t, name in self.lookups() if t == table]
            buckets = [name for name in users if name in cut]
            if buckets and len(buckets) < len(users):
                values = next(name for name in users if name not in cut)
                raise ValueError(f"table {table!r} cannot hold both the buckets of {buckets[0]} and values of {values}")
        unknown = sorted(set(self.tables) - {t for t, _ in self.lookups()})
        if unknown:
            raise ValueError(f"table {unknown[0]!r} is used by no feature")
        for vectors in self.vectors:
            if vectors.name in self.tables_in_use():
                raise ValueError(f"vectors {vectors.name!r} have the name of a table")
            if vectors.of == "queries" and self.searches is None:
                raise ValueError(f"vectors {vectors.name!r} are of queries; add searches: {{}} to read queries")
            if vectors.of == "queries" and vectors.codes:
                raise ValueError(f"vectors {vectors.name!r} are of queries, which have no codes")
        return self

    def table(self, name: str) -> Table:
        """Settings of the table `name`."""
        return self.tables.get(name, self.default_table)

    def lookups(self) -> list[tuple[str, str]]:
        """(table, feature) of every embedding look-up, in a fixed order: features, sides, queries, codes of vectors."""
        own = [(f.table or f.name, f.name) for f in self.features if isinstance(f, IdFeature | BucketFeature)]
        side = [(f.table or side_name(s, f), side_name(s, f)) for s in self.sequences for f in s.side]
        asked = [(self.searches.table or SEARCHES_QUERY, SEARCHES_QUERY)] if self.searches else []
        return own + side + asked + [(name, name) for vectors in self.vectors for name in code_names(vectors)]

    def tables_in_use(self) -> list[str]:
        """Names of the embedding tables, in order of first use."""
        return list(dict.fromkeys(table for table, _ in self.lookups()))


def side_name(sequence: Sequence, feature: Side) -> str:
    """Name under which a sequence's side feature is looked up."""
    return f"{sequence.name}_{feature.name}"


def code_names(vectors: ItemVectors) -> list[str]:
    """Names of the tables and look-ups of the vectors' codes, by level."""
    return [f"{vectors.name}_code{level + 1}" for level in range(vectors.codes.levels if vectors.codes else 0)]


def is_item(feature: Feature) -> bool:
    """Whether the feature is a property of the item (so that behaviours share it)."""
    return feature.column == "item" or feature.column.startswith("item.")
