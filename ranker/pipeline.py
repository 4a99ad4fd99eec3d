"""Training steps that overlap: while one is computed, the ids of the next batch go to the ranks that hold their rows.

TorchRec's TrainPipelineSparseDist does it, over three batches: one is computed, the ids of the second are exchanged,
the third is copied to the device. Losses are those of one step after another.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from features.batch import Batch
from ranker.model import Ranker


@dataclass
class Staged(Pipelineable):
    """A batch and, once it is on its device, the ids that each sharded collection is asked for."""

    ranker: Ranker
    batch: Batch
    tables: dict[str, KeyedJaggedTensor] = field(default_factory=dict)
    vectors: dict[str, KeyedJaggedTensor] = field(default_factory=dict)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Staged":
        batch = self.batch.to(device, non_blocking)
        return Staged(self.ranker, batch, self.ranker.tables.keyed(batch.ids), self.ranker.vectors.keyed(batch))

    def record_stream(self, stream: torch.Stream) -> None:
        self.batch.record_stream(stream)
        for keyed in (*self.tables.values(), *self.vectors.values()):
            keyed.record_stream(stream)  # pyright: ignore[reportArgumentType]


class Lookups(nn.Module):
    """The sharded collections of a ranker alone: what TorchRec traces to learn which ids to exchange early."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.tables, self.vectors = ranker.tables.collections, ranker.vectors.collections

    def forward(self, staged: Staged) -> list[Any]:
        found = [collection(staged.tables[name]) for name, collection in self.tables.items()]
        return found + [collection(staged.vectors[name]) for name, collection in self.vectors.items()]


class _Update:
    """What TorchRec takes for an optimizer; the forward pass resets the gradients itself."""

    def __init__(self, update: Callable[[], None]) -> None:
        self.step = update

    def zero_grad(self) -> None:
        pass


def pipelined(
    ranker: Ranker,
    device: torch.device,
    batches: Iterator[Batch],
    forward: Callable[[Batch], tuple[Tensor, float]],
    update: Callable[[], None],
) -> Iterator[tuple[Batch, float]]:
    """Train on each batch: `forward` gives what to go backward from and the loss, `update` follows the backward pass.

    Two batches further are taken from `batches` before a step is done. The ranker is as before once the generator is
    closed; in between, its collections answer for the batch in turn alone.
    """

    def step(staged: Staged) -> tuple[Tensor, tuple[Batch, float]]:
        loss, value = forward(staged.batch)
        return loss, (staged.batch, value)

    pipeline = TrainPipelineSparseDist(Lookups(ranker), _Update(update), device, custom_model_fwd=step)  # pyright: ignore
    staged = (Staged(ranker, batch) for batch in batches)
    try:
        while True:
            try:
                done = pipeline.progress(staged)
            except StopIteration:
                return
            yield done  # pyright: ignore[reportReturnType]
    finally:
        pipeline.detach()
