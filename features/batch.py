"""A batch: jagged ids as KeyedJaggedTensors, each distinct item of the batch once.

Shape legend: B samples, U distinct items (targets and behaviours together), N behaviours of a sequence,
V values of a feature, F dense features, S distinct side combinations of a sequence.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # TorchRec asks torch by a name it warns of


@dataclass
class Shared:
    """How samples share histories, as rectangles: H histories, each of C samples and L behaviours at most.

    Attributes:
        samples: (H, C) int64, the samples of each history. place: (B,) int64, where in it each sample is.
        behaviours: (H, L) int64, of its first sample, among N. pair: (N,) int64, where in (H, C, L) each behaviour is.
        What is beyond a history's own size names any row and is not to be looked at.
    """

    samples: Tensor
    place: Tensor
    behaviours: Tensor
    pair: Tensor


@dataclass
class SequenceBatch:
    """Behaviours of one sequence for B samples, oldest first.

    Attributes:
        lengths: (B,) int64. row: (N,) int64, the sample each behaviour belongs to.
        item: (N,) int64, index into the batch's U items.
        side: (N,) int64, index into the sequence's S distinct side combinations; None without side features.
        numbers: by column, (N,) float32 numbers of the behaviours.
        shared: how samples share histories; given to exported programs only.
    """

    lengths: Tensor
    row: Tensor
    item: Tensor
    side: Tensor | None = None
    numbers: dict[str, Tensor] = field(default_factory=dict)
    shared: Shared | None = None

    def take(self, kept: Tensor) -> "SequenceBatch":
        """The behaviours `kept` (K,), ascending indices, of the same samples."""
        row = self.row.index_select(0, kept)
        lengths = torch.zeros_like(self.lengths).index_add(0, row, torch.ones_like(row))
        side = None if self.side is None else self.side.index_select(0, kept)
        numbers = {name: values.index_select(0, kept) for name, values in self.numbers.items()}
        return SequenceBatch(lengths, row, self.item.index_select(0, kept), side, numbers)


@dataclass
class QueryBatch:
    """What B samples searched for, and their users before them; each distinct query once (Q of them).

    Attributes:
        target: (B,) int64, index of the sample's query among the Q. sequence: the earlier searches, whose `item` is
            that index.
    """

    target: Tensor
    sequence: SequenceBatch


@dataclass
class Batch:
    """What the ranker reads in one step.

    Attributes:
        row: (B,) int64 position in the split. label: (B,) float32.
        target: (B,) int64, index of the target among the U items. items: (U,) int64 item indices.
        ids: by table width, the ids of every look-up as a KeyedJaggedTensor with one bag a key: item features
            and codes of vectors hold U bags end to end, sample and user features B, side features S; `bags` has the
            lengths of lists.
        bags: feature of kind `ids` -> (U or B,) int64 list lengths.
        dense: (B, F) float32. sequences: by name.
        vectors: by name, (U,) int64 rows in the table of item vectors (of vectors of queries (Q,)); 0 where there is
            no vector.
        queries: the searches, if they are read; their look-up holds Q bags.
        context: (B,) int64, ascending: samples of one number have one history; None: each has its own.
    """

    row: Tensor
    label: Tensor
    target: Tensor
    items: Tensor
    ids: dict[int, KeyedJaggedTensor]
    bags: dict[str, Tensor]
    dense: Tensor
    sequences: dict[str, SequenceBatch]
    vectors: dict[str, Tensor] = field(default_factory=dict)
    queries: QueryBatch | None = None
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on another device."""
        return _mapped(self, lambda t: t.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked host memory."""
        return _mapped(self, lambda t: t.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that `stream` uses the tensors."""
        for tensor in _tensors(self):
            tensor.record_stream(stream)  # pyright: ignore[reportArgumentType]


def _mapped(value: Any, move: Callable[[Any], Any]) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor | KeyedJaggedTensor):
        return move(value)
    if isinstance(value, dict):
        return {key: _mapped(inner, move) for key, inner in value.items()}
    return type(value)(**{f.name: _mapped(getattr(value, f.name), move) for f in fields(value)})


def _tensors(value: Any) -> Iterator[Tensor | KeyedJaggedTensor]:
    if isinstance(value, Tensor | KeyedJaggedTensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif value is not None:
        for f in fields(value):
            yield from _tensors(getattr(value, f.name))
