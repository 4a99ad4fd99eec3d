"""From requests to a batch, through the very encoder and collator that training uses."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.dataset import Behaviors, Dataset
from data.queries import query_columns, query_id
from features.batch import Batch
from features.collate import Collator
from features.encoder import FeatureEncoder
from features.queries import Queries
from features.samples import SampleEncoder
from features.spec import SEARCHES
from features.vector_source import MISSING, VectorSource
from features.vocabulary import OOV
from ranker.serving.catalogue import Catalogue
from ranker.serving.requests import Requests
from ranker.serving.signature import Signature
from ranker.serving.vectors import Pinned, RequestVectors


class RequestLog(Dataset):
    """The behaviours of some requests, as a dataset that lives in memory: history r is that of request r."""

    def __init__(self, signature: Signature, requests: Requests, item: np.ndarray) -> None:
        """`item`: (N,) index of each behaviour's item."""
        self.requests, self.item = requests, item
        self.meta = {"actions": list(signature.actions), "sample_columns": ["ts", *signature.context]}

    def behaviors(self) -> Behaviors:
        """The requests' histories."""
        given = dict(self.requests.history)
        offsets = np.concatenate(([0], np.cumsum(self.requests.behaviours)))
        none = np.empty(0, np.int64)
        given.pop("item", None)
        ts, action = given.pop("ts", none), given.pop("action", np.zeros(len(self.item), np.int8))
        return Behaviors(None, offsets, self.item, ts, action, given)


@dataclass(frozen=True)
class Unknown:
    """What the model did not know, (R,) each: the user (bool); how many candidates, how many behaviours' items.

    missing: by name of vectors, how many candidates (of vectors of queries: whose query) have none.
    """

    user: np.ndarray
    candidates: np.ndarray
    behaviours: np.ndarray
    missing: dict[str, np.ndarray]


class RequestEncoder:
    """Encodes requests with a fitted encoder; a user's side is encoded once for all candidates."""

    def __init__(self, encoder: FeatureEncoder, signature: Signature, items: Catalogue, users: Catalogue) -> None:
        self.encoder, self.signature, self.items, self.users = encoder, signature, items, users
        self._item_feature = next((f.name for f in encoder.spec.features if f.column == "item"), None)
        self._user_feature = next((f.name for f in encoder.spec.features if f.column == "user"), None)

    def encode(self, requests: Requests, vectors: dict[str, Pinned]) -> tuple[Batch, Unknown]:
        """The batch of all candidates of all requests, in order, and what is unknown in it."""
        behaviour_items = requests.history.get("item", requests.item[:0])
        found = self.items.find(np.concatenate([requests.item, behaviour_items]))
        users = self.users.find(requests.user)
        shown = len(requests.item)
        log = RequestLog(self.signature, requests, found.at[shown:])
        queries = requested_queries(requests.context) if self.encoder.spec.searches else None
        sources: dict[str, VectorSource] = {}
        for spec in self.encoder.spec.vectors:
            pinned, ids = vectors[spec.name], found.ids
            if spec.of == "queries" and queries is not None:
                ids = np.array([*queries.ids.to_list(), ""], dtype=np.str_)  # the last means "no query"
            sources[spec.name] = RequestVectors(pinned.ids(ids), pinned.codes)
        samples = SampleEncoder(self.encoder, log, sources, found.entities, users.entities, queries)
        context = np.repeat(np.arange(len(requests)), requests.candidates)
        columns = {
            "row": np.arange(shown),
            "ts": requests.ts[context],
            "user": users.at[context],
            "item": found.at[:shown],
            "label": np.zeros(shown, np.float32),
            "history_end": requests.behaviours[context],
            "history_row": context,
        }
        window = samples.window({name: pl.Series(name, values) for name, values in columns.items()} | requests.context)
        window.context = context
        batch = Collator(samples).collate(window, np.arange(shown))
        return batch, self._unknown(requests, found.at, samples, users.at, context, batch)

    def _unknown(
        self,
        requests: Requests,
        item: np.ndarray,
        samples: SampleEncoder,
        user: np.ndarray,
        context: np.ndarray,
        batch: Batch,
    ) -> Unknown:
        """Counts of ids that have no row of their own."""
        shown, size = len(requests.item), len(requests)
        oov_items = _oov(samples.item_codes, self._item_feature, samples.items.size)[item]
        oov_users = _oov(samples.user_codes, self._user_feature, samples.users.size)[user]
        own = np.repeat(np.arange(size), requests.behaviours)
        target = {"items": batch.target, "queries": batch.queries.target if batch.queries else batch.target}
        without = {
            spec.name: (batch.vectors[spec.name][target[spec.of]] == MISSING).numpy()
            for spec in samples.encoder.spec.vectors
        }
        return Unknown(
            oov_users,
            np.bincount(context[oov_items[:shown]], minlength=size),
            np.bincount(own[oov_items[shown:]], minlength=size),
            {name: np.bincount(context[mask], minlength=size) for name, mask in without.items()},
        )


def requested_queries(context: dict[str, pl.Series]) -> Queries:
    """The distinct queries of some requests, from their context columns."""
    columns = query_columns(list(context))
    asked = pl.DataFrame({name: context[name] for name in columns}).select(query_id(columns)).to_series()
    before = context[SEARCHES].drop_nulls().explode(keep_nulls=True, empty_as_null=False).cast(pl.String)
    ids = pl.concat([asked.alias(SEARCHES), before.alias(SEARCHES)]).drop_nulls()
    return Queries(ids.filter(ids != "").unique().sort())


def _oov(codes: dict, feature: str | None, size: int) -> np.ndarray:
    return np.zeros(size, bool) if feature is None else codes[feature].values == OOV
