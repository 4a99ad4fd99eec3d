"""`python -O -m tests.ranker.two_dimensions DATASET OUT`: two copies of the tables, each over two of four gloo ranks.

TorchRec allows 2D parallelism on CUDA alone. What stands in its way on a CPU is replaced here: an assertion (by -O),
the number in the name of a device, and the mean over ranks, for gloo only adds. OUT/two_dimensions.json has the rest.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torchrec.distributed.model_parallel as torchrec_parallel
from torchrec.distributed.model_parallel import DMPCollection

import ranker.sharding
from features.ranks import Ranks
from ranker.train import Trainer
from tests.ranker.many_ranks import SGD, SHARDINGS, on_ranks, recipe, scores, steps, trainer

COPIES = 2
MIXED = {**SHARDINGS["mixed"], "replicas": COPIES}


def made(data: Path, out: Path, ranks: Ranks, optimizers: dict[str, Any]) -> Trainer:
    """A run of the tiny recipe with two copies of its tables."""
    placed = torchrec_parallel._remote_device
    with (
        patch.object(ranker.sharding, "_group_size", lambda sharding, ranks: ranks.world_size // sharding.replicas),
        patch.object(torchrec_parallel, "_remote_device", lambda name: placed(name.split("/")[0] + "/cpu")),
    ):
        found = trainer(recipe(MIXED, ranks.world_size, optimizers), data, out, ranks)
    assert isinstance(found.model, DMPCollection)
    copies = found.model._default_ctx.replica_pg

    def average(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor, group=copies)
            tensor /= COPIES

    found.model.set_all_reduce_hook(average)
    return found


def run(data: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Plain SGD for the comparison with one rank; then with state, saved in a thread and resumed."""
    first = made(data, out / "sgd", ranks, SGD)
    plan = {t: s.sharding_type for part in first.plan.plan.values() for t, s in part.items()}  # pyright: ignore
    found = {"model": type(first.model).__name__, "plan": plan, "losses": steps(first, 30)}
    saved = made(data, out / "saved", ranks, {"async_checkpoints": True})
    steps(saved, 6)
    saved._save()
    found |= {"scores": scores(saved, ranks), "next": steps(saved, 6)}
    saved.checkpoints.wait()
    again = made(data, out / "saved", ranks, {})
    again.resume()
    return found | {"again": steps(again, 6)}


def at_one_rank(data: Path, out: Path, ranks: Ranks) -> list[float]:
    """Scores of the checkpoint on one rank, with the tables once."""
    found = trainer(recipe(SHARDINGS["mixed"], 1, {}), data, out / "saved", ranks)
    found.resume()
    return scores(found, ranks)


def main(data: Path, out: Path) -> None:
    path, alone = out / "two_dimensions.json", out / "alone.json"
    on_ranks(4, lambda ranks: run(data, out, ranks), path)
    on_ranks(1, lambda ranks: at_one_rank(data, out, ranks), alone)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"at_one_rank": json.loads(alone.read_text())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
