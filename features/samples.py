"""Windows of samples as encoded arrays, and the item- and user-level codes that batches pick from."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from features import columns
from features.codebooks import ItemCodes
from features.columns import Codes, entity_of
from features.encoder import FeatureEncoder
from features.entities import Entities, dense_columns, encode_entities
from features.histories import Histories
from features.queries import AskedBefore, Queries
from features.spec import SEARCHES, SEARCHES_QUERY, BucketFeature, DenseFeature, IdFeature
from features.vector_source import VectorSource

POINTERS = ("ts", "user", "item", "label", "history_end")


@dataclass
class Window:
    """W consecutive or shuffled samples, encoded.

    Attributes:
        row: (W,) int64 position in the split. label: (W,) float32. user, item, history_row: (W,) int64.
        ts: (W,) int64. history_end: (W,) int64. codes: sample-level ids by feature, (W,) each. dense: (W, F) float32.
        context: (W,) int64, rows with one number have the same ts and history, which is then encoded once; None: all
            rows are apart.
    """

    row: np.ndarray
    label: np.ndarray
    user: np.ndarray
    item: np.ndarray
    history_row: np.ndarray
    ts: np.ndarray
    history_end: np.ndarray
    dense: np.ndarray
    codes: dict[str, Codes] = field(default_factory=dict)
    context: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)


class SampleEncoder:
    """Encodes samples of one dataset with a fitted encoder. Entity-level codes are computed once, here."""

    def __init__(
        self,
        encoder: FeatureEncoder,
        dataset: Dataset,
        vectors: dict[str, VectorSource] | None = None,
        items: Entities | None = None,
        users: Entities | None = None,
        queries: Queries | None = None,
    ) -> None:
        """`vectors`: the opened stores by name, for those that the spec asks for. `items`, `users`: the dataset's,
        where they are encoded already. `queries`: those of samples that bring their earlier searches."""
        self.encoder, self.dataset, self.vectors = encoder, dataset, vectors or {}
        assert set(self.vectors) == {v.name for v in encoder.spec.vectors}
        self.codes: dict[str, ItemCodes] = {
            name: self.vectors[name].codes(books) for name, books in encoder.codebooks.items()
        }
        self.items = items or encode_entities(encoder, "item", dataset.items().collect())
        self.users = users or encode_entities(encoder, "user", dataset.users().collect())
        self._histories = {
            column: history_of(dataset, column)
            for column in dense_columns(encoder.spec)
            if column.startswith("history.")
        }
        searches = encoder.spec.searches
        self.asked = AskedBefore(dataset, searches.length, queries) if searches else None
        if searches and self.asked:
            self.query_codes = self.asked.queries.codes(encoder.vocabularies[searches.table or SEARCHES_QUERY])
        self.read_columns = self._sample_columns()

    @property
    def item_codes(self) -> dict[str, Codes]:
        """Table rows of every item, by item feature."""
        return self.items.codes

    @property
    def user_codes(self) -> dict[str, Codes]:
        """Table rows of every user, by user feature."""
        return self.users.codes

    def window(self, frame: pl.DataFrame | dict[str, pl.Series]) -> Window:
        """Encode a frame (or its columns by name) that holds `row` and `read_columns`.

        Raises InputError naming column and row where a value does not fit.
        """
        item = frame["item"].to_numpy().astype(np.int64)
        user = frame["user"].to_numpy().astype(np.int64)
        history_row = frame["history_row"].to_numpy() if "history_row" in frame else user
        end = frame["history_end"].to_numpy().astype(np.int64)
        window = Window(
            row=frame["row"].to_numpy().astype(np.int64),
            label=frame["label"].to_numpy().astype(np.float32),
            user=user,
            item=item,
            history_row=history_row,
            ts=frame["ts"].to_numpy(),
            history_end=end,
            dense=np.empty((len(item), 0), np.float32),
        )
        spec = self.encoder.spec
        for feature in spec.features:
            if isinstance(feature, IdFeature | BucketFeature) and entity_of(feature.column) == "sample":
                window.codes[feature.name] = self.encoder.codes(feature, frame[feature.column])
        dense = [
            self.encoder.dense(f, self._numbers(f.column, frame, window), self._per(f, frame, window))
            for f in spec.features
            if isinstance(f, DenseFeature)
        ]
        if dense:
            window.dense = np.stack(dense, axis=1)
        if self.asked is not None:
            window.codes[SEARCHES_QUERY] = Codes(self.asked.asked({name: frame[name] for name in self.asked.columns}))
            given = frame[SEARCHES] if SEARCHES in frame else None  # noqa: SIM401 (a frame has no get)
            window.codes[SEARCHES] = self.asked.before(user, window.ts, given)
        return window

    def _per(
        self, feature: DenseFeature, frame: pl.DataFrame | dict[str, pl.Series], window: Window
    ) -> np.ndarray | None:
        return None if feature.per is None else self._numbers(feature.per, frame, window)

    def _numbers(self, column: str, frame: pl.DataFrame | dict[str, pl.Series], window: Window) -> np.ndarray:
        if column in self._histories:
            return self._histories[column].counts(window.history_row, window.history_end).astype(np.float64)
        entity = entity_of(column)
        if entity != "sample":
            return (
                self.items.numbers[column][window.item] if entity == "item" else self.users.numbers[column][window.user]
            )
        return columns.floats(frame[column])

    def _sample_columns(self) -> list[str]:
        spec, known = self.encoder.spec, self.dataset.meta["sample_columns"]
        context = [f.column for f in spec.features if isinstance(f, IdFeature | BucketFeature)]
        wanted = [c for c in [*context, *dense_columns(spec)] if entity_of(c) == "sample" and c not in self._histories]
        for column in set(wanted) - set(known):
            columns.pick(
                pl.DataFrame(schema={name: pl.Null for name in known}), column, "samples"
            )  # says what there is
        extra = ["history_row"] if "history_row" in known else []
        asked = self.asked.columns if self.asked else []
        return list(dict.fromkeys([*POINTERS, *extra, *wanted, *asked]))


def history_of(dataset: Dataset, column: str) -> Histories:
    """The behaviours that `history.ACTION` counts (`history.all`: every action).

    Raises InputError for an unknown action.
    """
    action = column.removeprefix("history.")
    return Histories(dataset.behaviors(), None if action == "all" else (action_code(dataset, action),))


def action_code(dataset: Dataset, action: str) -> int:
    """Code of an action's name.

    Raises InputError naming the actions there are.
    """
    if action not in dataset.actions:
        raise InputError(f"action {action!r} is unknown; the dataset's actions: {', '.join(dataset.actions)}")
    return dataset.actions.index(action)


def history_counts(dataset: Dataset, samples: pl.LazyFrame, column: str) -> np.ndarray:
    """`history.ACTION` of every sample, float64."""
    row = "history_row" if "history_row" in dataset.meta["sample_columns"] else "user"
    frame = samples.select(row, "history_end").collect(engine="streaming")
    counts = history_of(dataset, column).counts(frame[row].to_numpy().astype(np.int64), frame["history_end"].to_numpy())
    return counts.astype(np.float64)
