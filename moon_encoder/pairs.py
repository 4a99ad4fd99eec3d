"""Pairs of a query and an item, by where they come from; point in time, and without held-out items.

search_text, search_image  what was searched for and then clicked, put into the cart or bought (pairs/search.parquet)
given                      pairs that the source names itself (pairs/given.parquet)
product                    two behaviours of a user that stand close together, in a log with searches
co_engagement              the same in a log without searches
augmented                  an item and itself, shown in another form or as another view of its picture: what there
                           is where there is only a catalogue
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from data.config import Config
from data.dataset import Dataset
from data.errors import InputError
from data.pairs import searched, split_ends
from moon_encoder.forms import Contents, Form
from moon_encoder.negatives import NOBODY

Source = Literal["search_text", "search_image", "given", "product", "co_engagement", "augmented"]
Split = Literal["train", "valid", "test"]
SEARCHES: tuple[Source, ...] = ("search_text", "search_image")


class CoOccurrence(Config):
    """Which behaviours of a user count as belonging together."""

    actions: tuple[str, ...] | None = Field(None, description="names of the actions; None: all")
    window: int = Field(5, ge=1, description="a behaviour pairs with this many that follow it")
    gap: int | None = Field(1800, ge=0, description="longest time between the two, in seconds; None: any")
    per_user: int | None = Field(None, ge=1, description="most pairs of a user, drawn by seed; None: all")
    lost: tuple[str, ...] = Field(
        (),
        description="actions, such as a dislike, whose last `window` items before a pair are its triplet's negatives",
    )


@dataclass(frozen=True)
class Pairs:
    """n pairs of one source.

    Attributes:
        source: where they come from.
        asked_by: what the queries are: texts, pictures or items.
        query: (n,) text or key of the picture; "" where the query is an item.
        query_item: (n,) int64 item index; -1 where the query is a text or a picture.
        item: (n,) int64 item index. user: (n,) int64, NOBODY where unknown. ts: (n,) Unix seconds, 0 where unknown.
        action: (n,) name of what was done, "" where unknown.
        clicked, shown: (n,) lists of the other items of the request, or None. Without requests `clicked` are the items
            that got an action of CoOccurrence.lost.
    """

    source: Source
    asked_by: Literal["text", "image", "item"]
    query: np.ndarray
    query_item: np.ndarray
    item: np.ndarray
    user: np.ndarray
    ts: np.ndarray
    action: np.ndarray
    clicked: np.ndarray | None = None
    shown: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, rows: np.ndarray | slice) -> "Pairs":
        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        named = {name: pick(value) for name, value in vars(self).items() if name not in ("source", "asked_by")}
        return Pairs(self.source, self.asked_by, **named)  # type: ignore[arg-type]

    def can_query(self, form: Form) -> bool:
        """Whether these queries can be shown in a form."""
        return self.asked_by in ("item", form)


def load_pairs(source: Source, contents: Contents, split: Split, rule: CoOccurrence, seed: int = 0) -> Pairs:
    """All pairs of a source in a split; none where the dataset has no such thing.

    `given` and `augmented` know no time: they are the same in every split, the held-out rule divides them.
    Raises InputError for an action the dataset does not have.
    """
    dataset = contents.dataset
    if source in SEARCHES:
        return _searches(source, dataset, split)
    if source == "given":
        return _given(dataset)
    if source == "augmented":
        items = np.arange(len(contents), dtype=np.int64)
        return _of_items("augmented", items, items, np.full(len(items), NOBODY), np.zeros(len(items), np.int64), "")
    timeless = "history_row" in dataset.meta["sample_columns"] or not dataset.meta["counts"]["behaviors"]
    if searched(dataset) != (source == "product") or timeless:
        return _nothing(source)
    return _together(source, dataset, split, rule, seed)


def usable(pairs: Pairs, contents: Contents, query: Form, item: Form, allowed: np.ndarray) -> Pairs:
    """The pairs that can be shown in these forms and touch `allowed` items (items,) bool only."""
    keep = allowed[pairs.item] & contents.has(item)[pairs.item]
    of_item = pairs.query_item >= 0
    asked = np.where(of_item, pairs.query_item, 0)
    if pairs.asked_by == "image" and contents.unreadable_queries:
        keep &= ~np.isin(pairs.query.astype(str), list(contents.unreadable_queries))
    keep &= ~of_item | (allowed[asked] & contents.has("title" if query == "text" else query)[asked])
    return pairs[keep]


def _searches(source: Source, dataset: Dataset, split: Split) -> Pairs:
    path = dataset.root / "pairs" / "search.parquet"
    if not path.is_file():
        if searched(dataset):
            raise InputError(f"{path}: no such file; prepare the dataset again")
        return _nothing(source)
    column = "query_text" if source == "search_text" else "query_image"
    found = (
        pl.scan_parquet(path)
        .filter(pl.col("split") == split, pl.col(column).is_not_null())
        .select(column, "item", "user", "ts", "action", "clicked", "shown")
        .collect()
    )
    item, user, ts = (found[name].cast(pl.Int64).to_numpy() for name in ("item", "user", "ts"))
    return Pairs(
        source,
        "text" if source == "search_text" else "image",
        query=found[column].to_numpy(),
        query_item=np.full(len(found), -1, dtype=np.int64),
        item=item,
        user=user,
        ts=ts,
        action=found["action"].to_numpy(),
        clicked=_lists(found["clicked"]),
        shown=_lists(found["shown"]),
    )


def _lists(column: pl.Series) -> np.ndarray:
    out = np.empty(len(column), dtype=object)
    out[:] = [values or [] for values in column.to_list()]
    return out


def _given(dataset: Dataset) -> Pairs:
    """Named pairs; a dataset names texts or pictures, not both."""
    path = dataset.root / "pairs" / "given.parquet"
    if not path.is_file():
        return _nothing("given")
    found = pl.read_parquet(path)
    column = "query_image" if found["query_image"].null_count() < len(found) else "query_text"
    found = found.filter(pl.col(column).is_not_null())
    n = len(found)
    return Pairs(
        "given",
        "image" if column == "query_image" else "text",
        found[column].to_numpy(),
        np.full(n, -1, dtype=np.int64),
        found["item"].cast(pl.Int64).to_numpy(),
        np.full(n, NOBODY, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.full(n, "", dtype=object),
    )


def _together(source: Source, dataset: Dataset, split: Split, rule: CoOccurrence, seed: int) -> Pairs:
    """Behaviours that stand close together; a pair belongs to the split in which its later behaviour lies."""
    behaviors = dataset.behaviors()
    actions = rule.actions or tuple(a for a in dataset.actions if a not in rule.lost)
    if unknown := [a for a in (*actions, *rule.lost) if a not in dataset.actions]:
        raise InputError(
            f"{dataset.root}: no action {unknown[0]!r} for pairs of {source}; it has {', '.join(dataset.actions)}"
        )
    all_users = np.repeat(np.arange(len(behaviors.offsets) - 1), np.diff(behaviors.offsets))
    keep = np.isin(behaviors.action, [dataset.actions.index(a) for a in actions])
    user, item, ts, action = all_users[keep], behaviors.item[keep], behaviors.ts[keep], behaviors.action[keep]
    ends = split_ends(dataset)
    starts = np.concatenate([np.full((1, ends.shape[1]), np.iinfo(np.int64).min), ends])
    ends = np.concatenate([ends, np.full((1, ends.shape[1]), np.iinfo(np.int64).max)])
    at = ("train", "valid", "test").index(split)
    first, second = [], []
    for step in range(1, rule.window + 1):
        a, b = np.arange(len(user) - step), np.arange(step, len(user))
        good = (user[a] == user[b]) & (item[a] != item[b])
        good &= (ts[b] >= starts[at, user[b]]) & (ts[b] < ends[at, user[b]])
        if rule.gap is not None:
            good &= ts[b] - ts[a] <= rule.gap
        first.append(a[good])
        second.append(b[good])
    a, b = np.concatenate(first), np.concatenate(second)
    order = np.lexsort((a, b))
    a, b = a[order], b[order]
    if rule.per_user is not None:
        chosen = _some_of_each(user[b], rule.per_user, np.random.default_rng([seed, 11]))
        a, b = a[chosen], b[chosen]
    names = np.array(dataset.actions, dtype=object)
    pairs = _of_items(source, item[a].astype(np.int64), item[b].astype(np.int64), user[b], ts[b], names[action[b]])
    if not rule.lost:
        return pairs
    lost = np.isin(behaviors.action, [dataset.actions.index(a) for a in rule.lost])
    return replace(
        pairs, clicked=_before(pairs, all_users[lost], behaviors.ts[lost], behaviors.item[lost], rule.window)
    )


def _before(pairs: Pairs, user: np.ndarray, ts: np.ndarray, item: np.ndarray, most: int) -> np.ndarray:
    """(n,) lists of each pair's user's last `most` of these behaviours (ordered by user, then time) up to its time."""
    out = np.empty(len(pairs), dtype=object)
    first = min(int(ts.min(initial=0)), int(pairs.ts.min(initial=0)))
    span = max(int(ts.max(initial=0)), int(pairs.ts.max(initial=0))) - first + 1
    start = np.searchsorted(user, pairs.user)
    end = np.searchsorted(user * span + (ts - first), pairs.user * span + (pairs.ts - first), side="right")
    for row, (low, high) in enumerate(zip(np.maximum(start, end - most), end, strict=True)):
        out[row] = [i for i in item[low:high].tolist() if i != pairs.item[row]]
    return out


def _some_of_each(group: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Ascending positions of at most `most` random members of each group."""
    mixed = rng.permutation(len(group))
    mixed = mixed[np.argsort(group[mixed], kind="stable")]
    sorted_group = group[mixed]
    start = np.searchsorted(sorted_group, sorted_group)
    return np.sort(mixed[np.arange(len(mixed)) - start < most])


def _of_items(
    source: Source, query: np.ndarray, item: np.ndarray, user: np.ndarray, ts: np.ndarray, action: np.ndarray | str
) -> Pairs:
    nothing = np.full(len(item), "", dtype=object)
    named = np.full(len(item), action, dtype=object) if isinstance(action, str) else action
    return Pairs(source, "item", nothing, query, item, user.astype(np.int64), ts.astype(np.int64), named)


def _nothing(source: Source) -> Pairs:
    none = np.zeros(0, dtype=np.int64)
    return Pairs(source, "item", none.astype(object), none, none, none, none, none.astype(object))
