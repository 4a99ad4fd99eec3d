"""What the computed part of a ranker reads, as a flat dictionary of tensors with names.

`rows.F`: rows that look-up F found (one a value); every other name is the path of a tensor in features.batch.Batch,
such as `target`, `bags.F`, `sequences.S.item`. What a model never reads (labels, raw ids, row numbers) is left out, so
the dictionary is complete for any mechanism that works from rows and batch. Samples that share a history (the
candidates of a request) are told to: `sequences.S.shared.*`.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from features.batch import Batch, SequenceBatch
from ranker.over_history import shared_histories

UNREAD = ("row", "label", "items", "ids", "context")
ROWS = "rows."


def flat_inputs(rows: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The flat dictionary, in a fixed order."""
    found, batch = {ROWS + name: value for name, value in sorted(rows.items())}, with_shared(batch)
    for field in fields(batch):
        if field.name not in UNREAD:
            found.update(_named(getattr(batch, field.name), field.name))
    return found


def with_shared(batch: Batch) -> Batch:
    """The batch with `shared` in each of its sequences."""
    context = None if batch.context is None else batch.context.numpy()

    def told(s: SequenceBatch) -> SequenceBatch:
        return replace(s, shared=shared_histories(s.lengths.numpy(), context))

    queries = None if batch.queries is None else replace(batch.queries, sequence=told(batch.queries.sequence))
    return replace(batch, sequences={name: told(s) for name, s in batch.sequences.items()}, queries=queries)


def nested_inputs(flat: dict[str, Tensor], like: Batch) -> tuple[dict[str, Tensor], Batch]:
    """(rows, batch) of a flat dictionary; `like` is any batch of the same structure."""
    rows = {name.removeprefix(ROWS): value for name, value in flat.items() if name.startswith(ROWS)}
    parts = {f.name: _filled(getattr(like, f.name), f.name, flat) for f in fields(like) if f.name not in UNREAD}
    target = parts["target"]
    return rows, replace(like, row=target, label=target, items=target[:0], ids={}, context=None, **parts)


def _named(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _named(value[key], f"{path}.{key}")
    elif is_dataclass(value):
        for field in fields(value):
            yield from _named(getattr(value, field.name), f"{path}.{field.name}")


def _filled(value: Any, path: str, flat: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return flat[path]
    if isinstance(value, dict):
        return {key: _filled(inner, f"{path}.{key}", flat) for key, inner in value.items()}
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        return type(value)(**{name: _filled(getattr(value, name), f"{path}.{name}", flat) for name in names})
    return value
