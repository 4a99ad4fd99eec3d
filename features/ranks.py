"""This process among its peers: the process group that torchrun describes, world size 1 included."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from data.local_ranks import free_port


@dataclass(frozen=True)
class Ranks:
    """This process among its peers, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the process group that torchrun describes, or make one of this process alone; leave it at the end."""
    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(free_port())
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        if alone:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """The mean over ranks of every gradient, in one message; a rank without one brings zeros."""
    trained = [p for p in parameters if p.requires_grad]
    if ranks.world_size == 1 or not trained:
        return
    for p in trained:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in trained if p.grad is not None])
    dist.all_reduce(flat)
    flat /= ranks.world_size
    at = 0
    for p in trained:
        assert p.grad is not None
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()
