"""AdamW over the trained weights of an encoder, with warm-up and decay; shared by all stages."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from data.config import Config


class OptimizerConfig(Config):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); vectors such as biases and norms are not decayed."""

    lr: float = Field(1e-4, gt=0, description="highest learning rate")
    rates: dict[str, float] = Field(
        default_factory=dict, description="factor on lr by the beginning of a weight's name; the longest one counts"
    )
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm over all trained weights")
    warmup_steps: int = Field(0, ge=0, description="steps of linear rise from 0")
    decay: Literal["none", "linear", "cosine"] = Field("cosine", description="fall after the warm-up")
    floor: float = Field(0.0, ge=0, le=1, description="factor on lr at the last step")

    def factor(self, step: int, total: int) -> float:
        """Factor on lr at `step` (from 0) of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "none":
            return 1.0
        done = min((step - self.warmup_steps) / max(total - 1 - self.warmup_steps, 1), 1.0)
        falling = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.floor + (1 - self.floor) * falling


class Optimizer:
    """AdamW with its schedule.

    Example:
        loss.backward()
        rate, norm = optimizer.step(progress.step)   # step from 0, before it is counted
    """

    def __init__(self, config: OptimizerConfig, modules: Iterable[nn.Module], total_steps: int) -> None:
        self.config, self.total_steps = config, total_steps
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for module in modules:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((_rate(config.rates, name), parameter.ndim > 1), []).append(parameter)
        self._parameters = [p for group in groups.values() for p in group]
        self.inner = torch.optim.AdamW(
            [
                {"params": params, "weight_decay": config.weight_decay if decayed else 0.0, "factor": factor}
                for (factor, decayed), params in groups.items()
            ],
            lr=config.lr,
            betas=config.betas,
        )

    def step(self, step: int) -> tuple[float, float]:
        """Update the weights and clear their gradients; returns the learning rate and the gradient's norm.

        A gradient that is not finite is the caller's to find: its norm is not finite either, and then nothing changes.
        """
        rate = self.config.lr * self.config.factor(step, self.total_steps)
        for group in self.inner.param_groups:
            group["lr"] = rate * group["factor"]
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm or math.inf))
        if math.isfinite(norm):
            self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        return rate, norm


def _rate(rates: dict[str, float], name: str) -> float:
    """The factor of the longest beginning of `name`, else 1."""
    fitting = [start for start in rates if name.startswith(start)]
    return rates[max(fitting, key=len)] if fitting else 1.0
