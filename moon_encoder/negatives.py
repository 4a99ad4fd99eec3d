"""Where negatives come from: other ranks (spatial), earlier batches (temporal), and who is nobody's negative.

Shapes: B queries, N pool entries, D vector dim, G ranks, Q queue entries.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

NOBODY = -1


@dataclass(frozen=True)
class Labels:
    """What decides whether an entry may be a query's negative; each (n,) int64.

    Attributes:
        item: item index.
        group: product (SPU) of the item; NOBODY where unknown.
        user: whose positive the entry is; NOBODY for an entry that is nobody's, such as a hard negative.
    """

    item: Tensor
    group: Tensor
    user: Tensor

    def __getitem__(self, at: slice) -> "Labels":
        return Labels(self.item[at], self.group[at], self.user[at])

    def __len__(self) -> int:
        return len(self.item)

    def excludes(self, pool: "Labels") -> Tensor:
        """(B, N) bool: pool entries of the query's own item or product, or another positive of the same user."""
        same = self.item[:, None] == pool.item
        for mine, theirs in ((self.group, pool.group), (self.user, pool.user)):
            same |= (mine[:, None] == theirs) & (mine[:, None] != NOBODY)
        return same

    def to(self, device: torch.device) -> "Labels":
        """The same on a device."""
        return Labels(*(x.to(device) for x in (self.item, self.group, self.user)))

    def stacked(self) -> Tensor:
        """(n, 3) int64."""
        return torch.stack([self.item, self.group, self.user], dim=1)

    @staticmethod
    def unstacked(rows: Tensor) -> "Labels":
        """Inverse of `stacked`."""
        return Labels(*rows.unbind(1))


@dataclass(frozen=True)
class Block:
    """A part of the pool: vectors (n, D), with or without gradient, and their labels."""

    vectors: Tensor
    labels: Labels


@dataclass(frozen=True)
class Earlier:
    """Negatives of earlier batches, without gradient.

    Attributes:
        block: the entries. positive: (B, D) the queries' positives by the encoder that made the entries.
    """

    block: Block
    positive: Tensor


class _Gather(torch.autograd.Function):
    """All-gather along the rows whose backward brings back what every rank's loss says about the own rows."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:  # type: ignore[override]
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        ctx.rows = len(own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather(block: Block) -> Block:
    """The union of all ranks' blocks, (G*n, D), in order of rank; every rank must bring the same n.

    When each rank's loss is a mean over its own queries and gradients are averaged over ranks (as DDP does), the
    gradient equals that of one rank with the union batch. Without a process group: the block itself.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return block
    rows = block.labels.stacked()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows)
    return Block(_Gather.apply(block.vectors), Labels.unstacked(torch.cat(parts)))  # type: ignore[arg-type]


class Queue(nn.Module):
    """The last Q item vectors of earlier batches, without gradient; part of a checkpoint, so a resume has them.

    Example:
        keys = slow(encoder, items)  # moon_encoder.momentum
        earlier = Earlier(queue.block(), keys[: len(query)])
        info_nce(query, positive, labels, [gather(batch)], scale, earlier=earlier).backward()
        queue.push(gather(Block(keys, labels)))   # after backward: the ring is written in place
    """

    vectors: Tensor
    labels: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size, 3), NOBODY))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def block(self) -> Block:
        """The entries filled so far, in no particular order."""
        filled = min(int(self.pushed), len(self.vectors))
        return Block(self.vectors[:filled], Labels.unstacked(self.labels[:filled]))

    @torch.no_grad()
    def push(self, block: Block) -> None:
        """Replace the oldest entries; of a block larger than the queue the last Q stay."""
        size = len(self.vectors)
        count = min(len(block.vectors), size)
        skipped = len(block.vectors) - count
        at = (int(self.pushed) + skipped + torch.arange(count, device=self.vectors.device)) % size
        self.vectors[at] = block.vectors[skipped:].to(self.vectors.dtype)
        self.labels[at] = block.labels.stacked()[skipped:]
        self.pushed += len(block.vectors)
