"""`python -m tests.ranker.many_ranks DATASET OUT`: the same training on 1, 2 and 4 gloo ranks, for every sharding.

One process imports everything and forks the ranks, which costs one import in all. Every world writes OUT/WORLD.json:
by case, the loss of each step, the scores of the valid rows, and what checkpoints of other worlds gave.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from data.config import parse_config
from data.dataset import Dataset
from data.local_ranks import free_port
from features.ranks import Ranks, process_group
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.evaluate import predictions, valid_figures
from ranker.run_folder import RunFolder
from ranker.train import Trainer
from tests.ranker.conftest import TINY

STEPS, GLOBAL_BATCH = 100, 116  # the last batch of an epoch has 1 row: the other ranks have none
NARROW = {"narrowest": 4}
SHARDINGS: dict[str, Any] = {
    "data_parallel": {"kinds": ["data_parallel"]},
    "table_wise": {"kinds": ["table_wise"]},
    "row_wise": {"kinds": ["row_wise"]},
    "column_wise": {
        "kinds": ["column_wise"],
        "tables": {t: NARROW for t in ("user", "item", "genres", "rated_rating")},
    },
    "mixed": {
        "tables": {
            "user": {"kinds": ["row_wise"]},
            "item": {"kinds": ["column_wise"], **NARROW},
            "genres": {"kinds": ["table_wise"]},
            "rated_rating": {"kinds": ["data_parallel"]},
        }
    },
}
SGD = {"tables": {"kind": "sgd", "lr": 5.0}, "dense": {"kind": "sgd", "lr": 0.5}}


def recipe(sharding: dict[str, Any], world_size: int, optimizers: dict[str, Any]) -> Recipe:
    """The tiny recipe with a batch of GLOBAL_BATCH rows over all ranks."""
    train = TINY["train"] | optimizers | {"batch_size": GLOBAL_BATCH // world_size, "epochs": 100}
    return parse_config({**TINY, "train": train, "sharding": sharding}, Recipe, "tiny")


def trainer(found: Recipe, data: Path, out: Path, ranks: Ranks) -> Trainer:
    return Trainer(found, Dataset(data), {}, RunFolder(out), ranks, ItemEncoders({}, {}, ranks))


def steps(trainer: Trainer, count: int) -> list[float]:
    """Losses of the next steps, epoch after epoch."""
    losses: list[float] = []
    progress = trainer.progress
    trainer.model.train()
    while True:
        for batch in trainer.loader.epoch(progress.epoch, progress.batch):
            if len(losses) == count:
                return losses
            losses.append(trainer.train_step(batch))
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
        progress.epoch, progress.batch = progress.epoch + 1, 0


def scores(trainer: Trainer, ranks: Ranks) -> list[float]:
    return predictions(trainer.model, trainer.samples, "valid", ranks)["score"].to_list()


def run(data: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """All cases on this many ranks."""
    world, found = ranks.world_size, {}
    for name in SHARDINGS if world > 1 else ("table_wise",):
        made = trainer(recipe(SHARDINGS[name], world, SGD), data, out / name, ranks)
        plan = {t: s.sharding_type for part in made.plan.plan.values() for t, s in part.items()}  # pyright: ignore
        shards = {t: len(s.ranks) for part in made.plan.plan.values() for t, s in part.items()}  # pyright: ignore
        found[name] = {"losses": steps(made, STEPS), "scores": scores(made, ranks), "plan": plan, "shards": shards}
        found[name]["figures"] = valid_figures(made.model, made.samples, ranks)
    made = trainer(recipe(SHARDINGS["mixed"], world, {}), data, out / f"saved-{world}", ranks)
    steps(made, 10)
    made._save()
    found["saved"] = {"scores": scores(made, ranks), "next": steps(made, 10)}
    again = trainer(recipe(SHARDINGS["mixed"], world, {}), data, out / f"saved-{world}", ranks)
    assert again.resume()
    found["again"] = steps(again, 10)
    return found


def resume(data: Path, out: Path, ranks: Ranks, others: tuple[int, ...]) -> dict[str, Any]:
    """Load what other worlds saved, optimizer state included, score and go on."""
    world, found = ranks.world_size, {}
    for other in others:
        made = trainer(recipe(SHARDINGS["mixed"], world, {}), data, out / f"saved-{other}", ranks)
        assert made.resume()
        found[str(other)] = {"scores": scores(made, ranks), "next": steps(made, 10)}
    return found


def on_ranks(world_size: int, work: Any, path: Path) -> None:
    """Fork the ranks; the first one's result goes to `path`. Fails if a rank fails."""
    port, children = str(free_port()), []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                torch.set_num_threads(1)
                with process_group() as ranks:
                    found = work(ranks)
                if rank == 0:
                    path.write_text(json.dumps(found))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        raise SystemExit(f"a rank of {world_size} failed")


def main(data: Path, out: Path, worlds: tuple[int, ...] = (1, 2, 4)) -> None:
    for world in worlds:
        on_ranks(world, lambda ranks: run(data, out, ranks), out / f"{world}.json")
    for world in worlds:
        others = tuple(w for w in worlds if w != world)
        on_ranks(world, lambda ranks, others=others: resume(data, out, ranks, others), out / f"resumed-{world}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
