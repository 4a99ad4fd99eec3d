"""The optimizers of a run under one schedule: dense parameters here, tables fused in the backward pass."""

import math
from typing import Any

import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from ranker.config import DenseOptimizer, Schedule, Train
from ranker.local_parts import is_whole, table_of
from ranker.sharding import table_optimizer


def dense_parameters(model: DistributedModelParallel) -> dict[str, nn.Parameter]:
    """Parameters that no fused optimizer owns, by name."""
    return {name: p for name, p in model.named_parameters() if table_of(name) is None}  # pyright: ignore[reportReturnType]


def copied_tables(model: DistributedModelParallel) -> dict[str, nn.Parameter]:
    """Trained tables that every rank has whole, by name: their gradients are averaged, nothing fused steps them."""
    whole = {name for name, value in model.state_dict().items() if table_of(name) and is_whole(value)}
    fused = set(model.fused_optimizer.params)
    return {name: p for name, p in model.named_parameters() if name in whole and name not in fused}  # pyright: ignore[reportReturnType]


def dense_optimizer(groups: list[dict[str, Any]], config: DenseOptimizer) -> torch.optim.Optimizer:
    """The optimizer `config.kind` over parameter groups, each with its learning rate."""
    classes = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
    }
    return classes[config.kind](groups, lr=config.lr, weight_decay=config.weight_decay)


def _by_rate(named: dict[str, nn.Parameter], base: float, rates: dict[str, float]) -> dict[float, list[nn.Parameter]]:
    """Parameters by learning rate, those of the base rate first; `rates`: of parameters whose name has this prefix."""
    found: dict[float, list[nn.Parameter]] = {base: []}
    for name, parameter in named.items():
        rate = next((rate for prefix, rate in rates.items() if f"{prefix}." in name), base)
        found.setdefault(rate, []).append(parameter)
    return found


class Optimizers:
    """Steps the dense optimizer, clips its gradients and moves all learning rates along the schedule."""

    def __init__(
        self,
        model: DistributedModelParallel,
        train: Train,
        total_steps: int,
        rates: dict[str, float] | None = None,
        beside: dict[str, nn.Parameter] | None = None,
    ) -> None:
        """`rates`: learning rates of modules (by their path in the model) that differ from train.dense.lr.

        `beside`: parameters outside the model that are trained with its dense ones, by name. `averaged`, in the end:
        all parameters whose gradients are the ranks' mean."""
        self.train, self.total_steps = train, total_steps
        named = {name: p for name, p in dense_parameters(model).items() if p.requires_grad} | (beside or {})
        self.dense = list(named.values())
        groups = [{"params": ps, "lr": lr} for lr, ps in _by_rate(named, train.dense.lr, rates or {}).items()]
        wrapper = KeyedOptimizerWrapper(named, lambda _: dense_optimizer(groups, train.dense))  # pyright: ignore
        self._unfused, self.averaged = [wrapper], list(self.dense)
        if copies := copied_tables(model):
            self.averaged += copies.values()
            kind, arguments = table_optimizer(train.tables, next(iter(copies.values())).device)
            by_rate = _by_rate(copies, train.tables.lr, rates or {}).items()
            table_groups = [{"params": ps, "lr": lr} for lr, ps in by_rate if ps]
            self._unfused.append(KeyedOptimizerWrapper(copies, lambda _: kind(table_groups, **arguments)))  # pyright: ignore
        named_optimizers = zip(("dense", "copies"), self._unfused, strict=False)
        self.all = CombinedOptimizer([*named_optimizers, ("tables", model.fused_optimizer)])
        self._groups = [
            (group, group["lr"])  # pyright: ignore[reportIndexIssue]
            for optimizer in (*self._unfused, model.fused_optimizer)
            for group in optimizer.param_groups
        ]

    def prepare(self, step: int) -> None:
        """Before the forward pass of `step` (from 0): set learning rates (fused ones are used in the backward)."""
        factor = schedule_factor(self.train.schedule, step, self.total_steps)
        for group, rate in self._groups:
            group["lr"] = rate * factor  # pyright: ignore[reportIndexIssue]
        self.all.zero_grad()

    def allocate(self) -> None:
        """Give every parameter its optimizer state, for a checkpoint to be read into (the weights may move)."""
        for optimizer in self._unfused:
            optimizer.init_state()
        self.all.zero_grad()

    @property
    def dense_rate(self) -> float:
        """Learning rate of the dense parameters in this step."""
        return self._groups[0][0]["lr"]

    def step(self) -> None:
        """Clip and apply the dense gradients."""
        if self.train.dense.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.dense, self.train.dense.clip_norm)
        self.all.step()


def schedule_factor(schedule: Schedule, step: int, total: int) -> float:
    """Learning-rate factor of `step` (from 0) of `total`: linear warm-up, then the decay down to the floor."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.decay == "none":
        return 1.0
    done = min(1.0, (step - schedule.warmup_steps) / max(1, total - schedule.warmup_steps))
    shape = 1 - done if schedule.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.floor + (1 - schedule.floor) * shape
