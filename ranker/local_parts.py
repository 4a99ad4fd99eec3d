"""The parts of a table that this rank holds, however it is laid out."""

import re
from typing import Any, NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """values (rows, columns), or (rows,) of an optimizer's state, that begin at row `row` and column `column`."""

    values: Tensor
    row: int
    column: int


def local_parts(value: Any) -> list[Part]:
    """This rank's parts of a table's entry in a state dict: a ShardedTensor, a DTensor of shards or the whole table."""
    if hasattr(value, "local_shards"):
        return [Part(shard.tensor, *(*shard.metadata.shard_offsets, 0)[:2]) for shard in value.local_shards()]
    if hasattr(value, "to_local"):
        wrapped = value.to_local()
        shards, offsets = wrapped.local_shards(), wrapped.local_offsets()  # a rank without a shard has an offset
        return [Part(t, *(*o, 0)[:2]) for t, o in zip(shards, offsets, strict=False)]
    return [Part(value, 0, 0)]


def is_whole(value: Any) -> bool:
    """Whether every rank holds the whole table."""
    return not hasattr(value, "local_shards") and not hasattr(value, "to_local")


def table_of(name: str) -> str | None:
    """The table whose weight has this name in a state dict; None for other parameters."""
    found = re.search(r"(?:\.embeddings|^tables\.copies)\.([^.]+)\.weight$", name)
    return found[1] if found else None
