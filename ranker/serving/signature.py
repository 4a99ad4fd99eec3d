"""What a request says, derived from the features: names, types and shapes of its tensors.

A request is one user at one moment with C candidate items and L behaviours:

    user [1], ts [1], item [C], history.item [L], history.ts [L], history.action [L], history.X [L], X [C or 1]

X are columns of the samples (context) or of the behaviours (side columns). A context column that holds lists comes as
`X` (all values end to end) with `X.lengths` [C or 1].
"""

from typing import Any, Literal

import polars as pl
from pydantic import Field

from data.config import Config
from data.dataset import Dataset
from data.errors import InputError
from data.queries import query_columns
from features.columns import entity_of
from features.entities import dense_columns
from features.spec import SAME, SEARCHES, BucketFeature, FeatureSpec, IdFeature

Datatype = Literal["INT64", "FP64", "BYTES", "BOOL"]
Shape = Literal["one", "candidates", "behaviours", "values"]
LENGTHS = ".lengths"
HISTORY = "history."
BEHAVIOUR_COLUMNS = ("action", "age", "position")


class Input(Config):
    """One tensor of a request."""

    name: str
    datatype: Datatype = Field(description="of the Open Inference Protocol; BYTES is UTF-8 text")
    shape: Shape = Field(
        description="one: [1]; candidates: [C] or [1] for all; behaviours: [L]; values: as lengths say"
    )
    meaning: str


class Signature(Config):
    """All inputs of a request, all of them required.

    Attributes:
        actions: names of the action codes. lists: context columns that hold lists.
    """

    inputs: tuple[Input, ...]
    actions: tuple[str, ...]
    lists: tuple[str, ...] = ()

    def input(self, name: str) -> Input:
        """The input of that name."""
        return next(i for i in self.inputs if i.name == name)

    def names(self, shape: Shape) -> list[str]:
        """Inputs of one shape."""
        return [i.name for i in self.inputs if i.shape == shape]

    @property
    def context(self) -> list[str]:
        """Columns of the samples that a request gives, one value (or list) a candidate."""
        given = [i.name for i in self.inputs if i.shape in ("candidates", "values") and i.name != "item"]
        return [name for name in given if not name.endswith(LENGTHS) or name.removesuffix(LENGTHS) not in self.lists]

    @property
    def side(self) -> list[str]:
        """Side columns of the behaviours."""
        own = {"item", "ts", "action"}
        return [n.removeprefix(HISTORY) for n in self.names("behaviours") if n.removeprefix(HISTORY) not in own]


def signature(spec: FeatureSpec, dataset: Dataset) -> Signature:
    """The signature of a ranker with features `spec`; the types are those of the dataset.

    Raises InputError for a column that no tensor can carry.
    """
    item_id = _type(dataset.items().collect_schema()["item_id"], "items.item_id")
    user_id = _type(dataset.users().collect_schema()["user_id"], "users.user_id")
    inputs: list[dict[str, Any]] = [
        _input("user", user_id, "one", "the user's id; an unknown one is scored as such"),
        _input("ts", "INT64", "one", "moment of the request, Unix seconds"),
        _input("item", item_id, "candidates", "ids of the candidates, in the order of the answer"),
    ]
    schema, lists = dataset.samples("train").collect_schema(), []
    ids = {f.column for f in spec.features if isinstance(f, IdFeature)}
    for column in context_columns(spec):
        kind = schema[column] if column in ids else pl.Float64()  # a number may be missing: NaN
        if isinstance(kind, pl.List):
            lists.append(column)
            inputs.append(
                _input(column, _type(kind.inner, column), "values", f"{column} of all candidates, end to end")
            )
            inputs.append(_input(column + LENGTHS, "INT64", "candidates", f"number of values in each list of {column}"))
        else:
            inputs.append(_input(column, _type(kind, column), "candidates", f"{column}, as in the samples trained on"))
    if spec.searches:
        given = [i["name"] for i in inputs]
        for column in query_columns(schema.names()):
            if column not in given:
                inputs.append(_input(column, "BYTES", "candidates", f"{column} of the search; empty: none"))
        lists.append(SEARCHES)
        meaning = f"the user's searches before ts, oldest first; the last {spec.searches.length} suffice"
        meaning += "; each the key of its picture, else its text"
        inputs.append(_input(SEARCHES, "BYTES", "values", meaning))
        inputs.append(_input(SEARCHES + LENGTHS, "INT64", "candidates", "number of them"))
    if spec.sequences or _counts_history(spec):
        inputs += _history_inputs(spec, dataset, item_id)
    return Signature.model_validate({"inputs": inputs, "actions": dataset.actions, "lists": lists})


def context_columns(spec: FeatureSpec) -> list[str]:
    """Columns of the samples that features read, `ts` and counts of the history apart."""
    looked_up = [f.column for f in spec.features if isinstance(f, IdFeature | BucketFeature)]
    every = dict.fromkeys([*looked_up, *dense_columns(spec)])
    return [c for c in every if entity_of(c) == "sample" and c != "ts" and not c.startswith(HISTORY)]


def side_columns(spec: FeatureSpec) -> list[str]:
    """Side columns of the behaviours that sequences read."""
    every = dict.fromkeys(c for s in spec.sequences for c in [*(f.column for f in s.side), *s.numbers])
    return [c for c in every if c not in BEHAVIOUR_COLUMNS and not c.startswith(SAME)]


def reads_actions(spec: FeatureSpec) -> bool:
    """Whether anything depends on the behaviours' actions."""
    counted = [c for c in dense_columns(spec) if c.startswith(HISTORY) and c != HISTORY + "all"]
    chosen = any(s.actions or "action" in (*(f.column for f in s.side), *s.numbers) for s in spec.sequences)
    return bool(counted) or chosen


def _history_inputs(spec: FeatureSpec, dataset: Dataset, item_id: str) -> list[dict[str, Any]]:
    whole = _counts_history(spec)
    kept = "all of them (they are counted)" if whole else f"the last {max(s.length for s in spec.sequences)} suffice"
    if not whole and reads_actions(spec):
        kept = "as many as hold enough of each action that a sequence keeps"
    inputs = [
        _input(
            "history.item", item_id, "behaviours", f"items of the user's behaviours before ts, oldest first; {kept}"
        ),
        _input("history.ts", "INT64", "behaviours", "their moments, Unix seconds, ascending, all before ts"),
    ]
    if reads_actions(spec):
        inputs.append(_input("history.action", "BYTES", "behaviours", f"one of {', '.join(dataset.actions)}"))
    side = dataset.behaviors().side
    for column in side_columns(spec):
        kind = "INT64" if column in side and side[column].dtype.kind in "iub" else "FP64"
        inputs.append(_input(HISTORY + column, kind, "behaviours", f"their {column}"))
    return inputs


def _counts_history(spec: FeatureSpec) -> bool:
    return any(c.startswith(HISTORY) for c in dense_columns(spec))


def _input(name: str, datatype: str, shape: Shape, meaning: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "meaning": meaning}


def _type(dtype: pl.DataType | type, column: str) -> Datatype:
    kind = dtype if isinstance(dtype, pl.DataType) else dtype()
    if kind == pl.Boolean:
        return "BOOL"
    if kind.is_integer():
        return "INT64"
    if kind.is_float():
        return "FP64"
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return "BYTES"
    raise InputError(f"column {column!r} is {kind}: a request cannot carry it")
