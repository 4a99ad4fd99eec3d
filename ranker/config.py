"""A recipe: everything that defines a training run, as one strict configuration."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator, model_validator

from data.config import Config
from features.spec import SAME, SEARCHES, FeatureSpec, Name
from ranker.content_config import Cube, Make, Mechanism, SemanticIds, numbers_of, sequences_of, vectors_of

Activation = Literal["relu", "sigmoid", "dice", "prelu"]


class SimilaritySide(Config):
    """The SimTier tier of a behaviour's cosine with the target, embedded as side information of the behaviour."""

    vectors: Name = Field(description="which of features.vectors")
    dim: int = Field(8, ge=1, description="width of a tier's embedding")


class Search(Config):
    """Which behaviours of a long history an attention sees; everything after it works on those alone."""

    kind: Literal["cosine", "inner", "category", "simhash"] = Field(
        description="cosine: of vectors (MUSE); inner: inner product of the id embeddings (SIM soft); category: those "
        "of the target's category, the most recent (SIM hard); simhash: agreeing signs of random projections of the "
        "id embeddings (ETA)"
    )
    top: int = Field(50, ge=1, description="behaviours kept")
    vectors: Name | None = Field(None, description="cosine: which of features.vectors")
    category: Name | None = Field(None, description="category: item feature of kind id")
    bits: int = Field(64, ge=1, description="simhash: random projections")

    @model_validator(mode="after")
    def _complete(self) -> "Search":
        for kind, field in (("cosine", "vectors"), ("category", "category")):
            if (self.kind == kind) != (getattr(self, field) is not None):
                raise ValueError(f"search: {field} belongs to kind {kind}, and kind {kind} needs it")
        return self


class SequenceModel(Config):
    """How one behaviour sequence becomes a fixed-size interest vector."""

    kind: Literal["din", "mha", "hstu", "mean"] = Field(
        "din", description="DIN, multi-head target attention, HSTU, mean pooling"
    )
    hidden: tuple[int, ...] = Field((64,), description="din: widths of the attention MLP over [q, k, q-k, q*k]")
    activation: Activation = Field("relu", description="din: activation of the attention MLP")
    softmax: bool = Field(False, description="din: normalise the weights over the history (the paper does not)")
    heads: int = Field(4, ge=1, description="mha, hstu: attention heads")
    head_dim: int = Field(16, ge=1, description="mha, hstu: width of a head")
    layers: int = Field(2, ge=1, description="hstu: layers; one costs the behaviours, each further one their pairs")
    positions: int = Field(
        128, ge=2, description="hstu: distances in the sequence with a bias of their own; farther ones share the last"
    )
    time_bias: bool = Field(True, description="hstu: bias by seconds between behaviours, from their number age")
    similarity_attention: Name | None = Field(
        None, description="din, mha, hstu: vectors whose cosine with the target is fused into the scores (SA-TA)"
    )
    similarity_side: SimilaritySide | None = Field(None, description="cosine as side information of a behaviour")
    search: Search | None = Field(None, description="find the behaviours that matter first; None: all of them")

    @model_validator(mode="after")
    def _scores_exist(self) -> "SequenceModel":
        if self.kind == "mean" and self.similarity_attention:
            raise ValueError("similarity_attention needs attention scores: kind din, mha or hstu")
        return self

    def vectors(self) -> list[str]:
        """Names of the features.vectors it reads."""
        found = [self.similarity_attention, self.similarity_side and self.similarity_side.vectors]
        return [name for name in [*found, self.search and self.search.vectors] if name]


class Interaction(Config):
    """How the feature vectors meet before the tower."""

    kind: Literal["mlp", "dcnv2"] = Field("mlp", description="tower alone, or beside cross layers")
    layers: int = Field(3, ge=1, description="dcnv2: cross layers")
    low_rank: int | None = Field(None, ge=1, description="dcnv2: rank of the cross matrices; None: full")


class Model(Config):
    """The ranker's dense part."""

    sequences: dict[Name, SequenceModel] = Field(default_factory=dict, description="by sequence; default DIN")
    content: tuple[Mechanism, ...] = Field((), description="how item vectors enter, each beside the others")
    interaction: Interaction = Interaction()  # pyright: ignore[reportCallIssue]
    tower: tuple[int, ...] = Field((128, 64), description="widths of the tower")
    activation: Activation = Field("relu", description="of the tower")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the tower's activations dropped in training")
    layer_norm: bool = Field(False, description="normalise the tower's input")


class DenseOptimizer(Config):
    """Optimizer of everything that is no table."""

    kind: Literal["adam", "adamw", "sgd", "adagrad"] = Field("adam", description="as in torch.optim")
    lr: float = Field(1e-3, gt=0, description="learning rate before the schedule")
    weight_decay: float = Field(0.0, ge=0, description="as in torch.optim")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm over all dense parameters")


class TableOptimizer(Config):
    """Fused optimizer of the embedding tables (inside the backward pass)."""

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "adam"] = Field("adagrad", description="adam: CUDA only")
    lr: float = Field(0.05, gt=0, description="learning rate before the schedule")
    eps: float = Field(1e-8, gt=0, description="added to the root of the accumulated squares")
    init_std: float = Field(0.01, gt=0, description="standard deviation of initial rows (the OOV row starts at 0)")


class Schedule(Config):
    """Learning-rate factor over the steps."""

    warmup_steps: int = Field(0, ge=0, description="steps of linear rise from 0")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="shape of the fall after the warm-up")
    floor: float = Field(0.0, ge=0, le=1, description="factor at the last step")


class Train(Config):
    """The loop."""

    batch_size: int = Field(4096, ge=1, description="rows a rank and step")
    epochs: int = Field(1, ge=1, description="passes over the train split")
    dense: DenseOptimizer = DenseOptimizer()  # pyright: ignore[reportCallIssue]
    tables: TableOptimizer = TableOptimizer()  # pyright: ignore[reportCallIssue]
    schedule: Schedule = Schedule()  # pyright: ignore[reportCallIssue]
    bf16: bool = Field(False, description="autocast the dense part to bfloat16")
    compile_head: bool = Field(False, description="torch.compile crosses and tower, which see whole rows alone")
    evals_per_epoch: int = Field(1, ge=1, description="evaluations on valid an epoch")
    stop_metric: Literal["auc", "gauc", "logloss"] = Field("auc", description="of valid: chooses the best checkpoint")
    patience: int | None = Field(None, ge=1, description="evaluations without a better stop_metric; None: run all")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; None: at evaluations")
    async_checkpoints: bool = Field(
        False, description="write checkpoints in a thread, from a copy of the trained state, while training goes on"
    )
    follow_stores: bool = Field(
        False, description="after each evaluation go on with the newest versions of frozen and projected vectors"
    )
    pipeline: bool | None = Field(
        None, description="send the next batch's ids to the ranks of their rows during a step; None: on CUDA alone"
    )
    loader_workers: int = Field(1, ge=0, description="threads that build batches ahead")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the compute; None: OMP_NUM_THREADS, else all cores but the loader's"
    )


Kinds = tuple[Literal["data_parallel", "table_wise", "row_wise", "column_wise"], ...]


def _copies_alone(kinds: Kinds | None) -> Kinds | None:
    if kinds is not None and "data_parallel" in kinds and len(kinds) > 1:
        raise ValueError("data_parallel stands alone: its optimizer is not the fused one of the other kinds")
    return kinds


class TableSharding(Config):
    """What the planner may do with one table."""

    kinds: Kinds | None = Field(None, description="sharding types; None: those of sharding.kinds")
    narrowest: int | None = Field(None, ge=4, multiple_of=4, description="column_wise: fewest columns of a shard")

    @field_validator("kinds")
    @classmethod
    def _alone(cls, kinds: Kinds | None) -> Kinds | None:
        return _copies_alone(kinds)


class Sharding(Config):
    """How the tables are laid out over ranks. TorchRec's planner chooses within what is allowed here."""

    kinds: Kinds | None = Field(
        None,
        description="sharding types of every table: data_parallel (a copy on each rank, for small tables), table_wise, "
        "row_wise, column_wise; None: table_wise on one rank, all but copies on several",
    )
    tables: dict[Name, TableSharding] = Field(default_factory=dict, description="exceptions, by table or item vectors")
    replicas: int = Field(
        1, ge=1, description="2D parallelism: copies of all tables, each over its share of the ranks; CUDA only"
    )

    @field_validator("kinds")
    @classmethod
    def _alone(cls, kinds: Kinds | None) -> Kinds | None:
        return _copies_alone(kinds)

    def of(self, table: str, world_size: int) -> TableSharding:
        """What holds for one table on so many ranks."""
        own = self.tables.get(table, TableSharding())  # pyright: ignore[reportCallIssue]
        default: Kinds = ("table_wise",) if world_size == 1 else ("table_wise", "row_wise", "column_wise")
        return TableSharding(kinds=own.kinds or self.kinds or default, narrowest=own.narrowest)

    def copied(self, tables: Iterable[str]) -> list[str]:
        """Those of the tables that every rank has whole, their gradients averaged like a dense parameter's."""
        return [table for table in tables if self.of(table, 2).kinds == ("data_parallel",)]


class Recipe(Config):
    """One training run. `name` and everything but `seed` identify the recipe; `seed` its repetition."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="of the recipe; moon compare groups runs by it")
    seed: int = Field(0, description="of initial weights, row order and dropout")
    features: FeatureSpec
    model: Model = Model()  # pyright: ignore[reportCallIssue]
    train: Train = Train()  # pyright: ignore[reportCallIssue]
    sharding: Sharding = Sharding()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _sequences_exist(self) -> "Recipe":
        names = list(_numbers_of_sequences(self.features))
        for name in self.model.sequences:
            if name not in names:
                raise ValueError(
                    f"model.sequences.{name}: no such sequence in features (there are: {', '.join(names)})"
                )
        return self

    @model_validator(mode="after")
    def _tables_exist(self) -> "Recipe":
        known = [*self.features.tables_in_use(), *(v.name for v in self.features.vectors)]
        strange = [name for name in self.sharding.tables if name not in known]
        if strange:
            raise ValueError(f"sharding.tables: no table {strange[0]!r} (there are: {', '.join(known)})")
        copied = self.sharding.copied(v.name for v in self.features.vectors)
        if copied:
            raise ValueError(
                f"sharding: item vectors {copied[0]!r} cannot be data_parallel; give them kinds of their own"
            )
        return self

    @model_validator(mode="after")
    def _something_to_follow(self) -> "Recipe":
        if self.train.follow_stores and not any(v.mode in ("frozen", "projected") for v in self.features.vectors):
            raise ValueError("train.follow_stores: no features.vectors are frozen or projected; trained ones stay")
        return self

    @model_validator(mode="after")
    def _content_exists(self) -> "Recipe":
        vectors = [v.name for v in self.features.vectors]
        sequences = _numbers_of_sequences(self.features)
        for config in self.model.content:
            for name in vectors_of(config):
                if name not in vectors:
                    known = ", ".join(vectors) or "none"
                    raise ValueError(f"model.content: no vectors {name!r} in features.vectors (there: {known})")
            for name in sequences_of(config):
                if name not in sequences:
                    raise ValueError(
                        f"model.content: {config.kind} reads sequence {name!r}, features.sequences has: "
                        f"{', '.join(sequences) or 'none'}"
                    )
            for name, number in numbers_of(config):
                if number not in sequences[name]:
                    raise ValueError(
                        f"model.content: {config.kind} reads {number!r} of the behaviours; "
                        f"add it to the numbers of sequence {name!r}"
                    )
        read = {name for config in self.model.content for name in vectors_of(config)}
        coded = {v.name for v in self.features.vectors if v.codes}
        wanted = {config.vectors for config in self.model.content if isinstance(config, SemanticIds)}
        if wanted != coded:
            name = sorted(wanted ^ coded)[0]
            lacks = "have no codes" if name in wanted else "have codes that nothing in model reads"
            raise ValueError(f"features.vectors {name!r} {lacks}; semantic_ids reads codes")
        for name, model in self.model.sequences.items():
            strange = [v for v in model.vectors() if v not in vectors]
            if strange:
                raise ValueError(f"model.sequences.{name}: no vectors {strange[0]!r} in features.vectors")
            read |= set(model.vectors())
            if model.kind == "hstu" and model.time_bias and "age" not in sequences[name]:
                raise ValueError(
                    f"model.sequences.{name}: hstu reads 'age' of the behaviours; add it to the numbers of sequence "
                    f"{name!r}, or set time_bias: false"
                )
            number = SAME + (model.search.category or "") if model.search else SAME
            if number != SAME and number not in sequences[name]:
                raise ValueError(
                    f"model.sequences.{name}.search reads {number!r}; add it to the numbers of sequence {name!r}"
                )
        self._queries_meet_queries()
        unread = [v for v in vectors if v not in read]
        if unread:
            raise ValueError(f"features.vectors {unread[0]!r} are read by nothing in model")
        return self

    def _queries_meet_queries(self) -> None:
        """Raise ValueError where vectors of queries are held against a sequence of items, or the other way round."""
        asked = {v.name for v in self.features.vectors if v.of == "queries"}
        read = [(name, v, f"model.sequences.{name}") for name, m in self.model.sequences.items() for v in m.vectors()]
        for config in self.model.content:
            what = f"model.content: {config.kind}"
            read += [(name, config.vectors, what) for name in sequences_of(config)]
            if isinstance(config, Cube) and config.queries is not None:
                read.append((SEARCHES, config.queries, what))
            if isinstance(config, Cube | Make) and (config.vectors in asked or SEARCHES in sequences_of(config)):
                raise ValueError(f"{what} reads vectors and sequences of items, not of queries")
        for name, vectors, what in read:
            if (name == SEARCHES) != (vectors in asked):
                kinds = ("queries", "items") if vectors in asked else ("items", "queries")
                raise ValueError(f"{what}: {vectors!r} are vectors of {kinds[0]}, {name!r} is a sequence of {kinds[1]}")


def _numbers_of_sequences(features: FeatureSpec) -> dict[str, tuple[str, ...]]:
    """Numbers of the behaviours, by sequence; searches have none."""
    return {s.name: s.numbers for s in features.sequences} | ({SEARCHES: ()} if features.searches else {})
