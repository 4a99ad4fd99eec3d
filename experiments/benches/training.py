"""`moon bench loader` and `moon bench train`: rows/s of the loader by itself, and of a training step by part."""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from data.config import load_config
from data.dataset import Dataset
from data.host import keep_freed_memory
from experiments.benches import figures
from features.encoder import FeatureEncoder
from features.loader import Loader
from features.ranks import average_gradients, process_group
from features.samples import SampleEncoder
from features.vector_source import named_folders, open_sources
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.losses import click_loss
from ranker.model import Ranker
from ranker.run_folder import RunFolder
from ranker.train import Trainer


def main(argv: list[str], bench: str = "train") -> int:
    """The command `moon bench train`, or with `bench` "loader" the other one."""
    parser = argparse.ArgumentParser(f"moon bench {bench}", description="Speed of training on a prepared dataset.")
    parser.add_argument("config", type=Path, help="recipe (YAML)")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--store", action="append", default=[], metavar="[NAME=]DIR", help="item vectors")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument("--steps", type=int, default=60, help="timed steps, after ten that warm up")
    figures.options(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    recipe = load_config(args.config, Recipe, [*args.set, f"train.threads={args.threads}"])
    dataset = Dataset(args.data)
    sources = open_sources(
        recipe.features, dataset, named_folders("--store", [v.name for v in recipe.features.vectors], args.store)
    )
    if bench == "loader":
        return figures.report("loader", _loader(recipe, dataset, sources, args.steps), args)
    with process_group() as ranks, tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(recipe, dataset, sources, RunFolder(scratch), ranks, ItemEncoders({}, sources, ranks))
        return figures.report("train", _steps(trainer, args.steps), args)


def loader(argv: list[str]) -> int:
    """The command `moon bench loader`."""
    return main(argv, "loader")


def _loader(recipe: Recipe, dataset: Dataset, sources: dict[str, Any], steps: int) -> dict[str, Any]:
    samples = SampleEncoder(FeatureEncoder.fit(recipe.features, dataset, sources), dataset, sources)
    found: dict[str, Any] = {"batch": recipe.train.batch_size}
    for workers in (0, 1, 2):
        batches = _endless(Loader(samples, "train", recipe.train.batch_size, shuffle=True, workers=workers))
        for _ in range(3):
            next(batches)
        started = time.perf_counter()
        rows = sum(len(next(batches)) for _ in range(steps))
        found[f"workers{workers}_rows_per_second"] = rows / (time.perf_counter() - started)
    return found


def _endless(loader: Loader) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _steps(trainer: Trainer, steps: int) -> dict[str, Any]:
    """Milliseconds a step of every part, and rows/s. The parts are those of `Trainer.train_step`."""
    clock, batches, rows = _Clock(trainer), _endless(trainer.loader), 0
    trainer.model.train()
    for step in range(10 + steps):
        if step == 10:
            clock.spent.clear()
            rows, started = 0, time.perf_counter()
        with clock.part("waiting for data"):
            batch = next(batches)
        with clock.part("copy to the device"):
            batch = batch.to(trainer.ranks.device, non_blocking=True)
        trainer.optimizers.prepare(step)
        with clock.part("forward"), torch.autocast(batch.label.device.type, torch.bfloat16, trainer.recipe.train.bf16):
            logits = trainer.model(batch)
        loss = click_loss(logits, batch.label)
        with clock.part("backward, tables' optimizers"):
            loss.backward()
        with clock.part("dense optimizer"):
            average_gradients(trainer.optimizers.averaged, trainer.ranks)
            trainer.optimizers.step()
        rows += len(batch)
    total = time.perf_counter() - started
    found: dict[str, Any] = {"batch": trainer.recipe.train.batch_size, "rows_per_second": rows / total}
    found["step_ms"] = total / steps * 1e3
    found |= {f"{name.replace(' ', '_')}_ms": spent / steps * 1e3 for name, spent in clock.spent.items()}
    found["waiting_for_data_share_waiting"] = clock.spent["waiting for data"] / total
    return found


class _Clock:
    """Seconds by part; on a GPU each part waits for what it started."""

    def __init__(self, trainer: Trainer) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._since: dict[int, float] = {}
        ranker = cast(Ranker, trainer.model.module)
        parts: dict[str, nn.Module] = {"tables": ranker.tables, "head": ranker.head}
        parts |= {f"sequence {name}": module for name, module in ranker.interests.items()}
        kinds = [config.kind for config in trainer.recipe.model.content]
        parts |= {f"content {kind}": m for kind, m in zip(kinds, ranker.content, strict=True)}
        for name, module in parts.items():
            module.register_forward_pre_hook(lambda m, _: self._since.__setitem__(id(m), self._now()))
            module.register_forward_hook(lambda m, *_, name=f"forward of {name}": self._add(name, m))

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _add(self, name: str, module: nn.Module) -> None:
        self.spent[name] += self._now() - self._since.pop(id(module))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time until the end of the block to `name`."""
        started = self._now()
        yield
        self.spent[name] += self._now() - started
