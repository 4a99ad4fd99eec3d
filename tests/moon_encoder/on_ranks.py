"""A function on two gloo ranks, each a process of its own."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from data.leaving import leave


def on_two_ranks(work: Callable[..., None], folder: Path, *args: object) -> None:
    """Call work(rank, folder, *args) on both; raises what it raised."""
    mp.start_processes(_rank, args=(work, folder, *args), nprocs=2, start_method="spawn")  # type: ignore[attr-defined]


def _rank(rank: int, work: Callable[..., None], folder: Path, *args: object) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    work(rank, folder, *args)
    dist.destroy_process_group()
    leave(lambda: 0)
