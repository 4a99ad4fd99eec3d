"""The first phase of a run with MAKE: its vector model is trained by its own logit, before any id is.

The passes read vectors, sequence and labels alone. After each the model is judged on valid, and the best pass is what
the ranker goes on with. The state lies in RUN/pretraining/NAME.pt, its figures in NAME.json: a run that was
interrupted goes on there.
"""

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.errors import InputError
from data.files import naming_a_full_disk, write_json
from data.progress import Progress
from features.batch import Batch
from features.encoder import FeatureEncoder
from features.ranks import Ranks, average_gradients
from features.samples import SampleEncoder
from features.spec import FeatureSpec
from ranker.build import train_loader
from ranker.config import Recipe
from ranker.evaluate import valid_figures
from ranker.losses import click_loss
from ranker.make import MakeExtractor
from ranker.metrics import is_better
from ranker.model import Ranker
from ranker.optimizer import dense_optimizer
from ranker.run_folder import RunFolder


def pretrain(
    ranker: Ranker, recipe: Recipe, samples: SampleEncoder, run: RunFolder, ranks: Ranks, stop: Callable[[], bool]
) -> bool:
    """Train every MAKE of the ranker, or what is left of it; False if `stop` said so first (the state is saved).

    Raises InputError where a loss is not finite.
    """
    modules = {f"make{i}": m for i, m in enumerate(ranker.content) if isinstance(m, MakeExtractor)}
    for name, module in modules.items():
        phase = _Phase(name, ranker, module, recipe, samples, run, ranks)
        if not phase.run(stop):
            return False
        module.load_state_dict(phase.best)
    return True


class VectorModel(nn.Module):
    """A MAKE as a click model of its own: logits (B,) of a batch. The vectors themselves are not trained here."""

    def __init__(self, ranker: Ranker, module: MakeExtractor) -> None:
        super().__init__()
        self.vectors, self.make = ranker.vectors, module

    def forward(self, batch: Batch) -> Tensor:
        """-> logits (B,)."""
        config = self.make.config
        with torch.no_grad():
            content = self.vectors(self.vectors.lookup(batch), batch)[config.vectors]
        return self.make.logits(content, batch.sequences[config.sequence], batch.target)


@dataclass
class _State:
    """Where a phase stands: the next batch, the loss of this pass so far, figures by pass, the best pass's weights."""

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    passes: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None


class _Phase:
    """The passes of one MAKE."""

    def __init__(
        self,
        name: str,
        ranker: Ranker,
        module: MakeExtractor,
        recipe: Recipe,
        samples: SampleEncoder,
        run: RunFolder,
        ranks: Ranks,
    ) -> None:
        self.name, self.config, self.train, self.ranks = name, module.config, recipe.train, ranks
        self.module = copy.deepcopy(module).requires_grad_(True)  # apart from what averages the ranker's gradients
        self.model = VectorModel(ranker, self.module)
        self.samples = vector_samples(module, samples)
        self.loader = train_loader(recipe, self.samples, ranks)
        self.parameters = list(self.module.parameters())
        dense = recipe.train.dense.model_copy(update={"lr": self.config.lr})
        self.optimizer = dense_optimizer([{"params": self.parameters}], dense)
        self.path = run.pretraining / f"{name}.pt"
        self.state = self._load() if self.path.is_file() else _State()

    def run(self, stop: Callable[[], bool]) -> bool:
        """The passes that are left; False if `stop` said so first."""
        state, batches = self.state, self.loader.batches
        progress = Progress(f"{self.name} on {self.config.vectors}", self.config.epochs * batches, "batches")
        progress.done = state.epoch * batches + state.batch
        while state.epoch < self.config.epochs:
            self.model.train()
            for batch in self.loader.epoch(state.epoch, state.batch):
                state.loss += self._step(batch.to(self.ranks.device, non_blocking=True))
                state.batch += 1
                if self.ranks.first:
                    progress.add(1)
                every = self.train.checkpoint_every
                if stop():
                    self._save()
                    return False
                if every and state.batch % every == 0:
                    self._save()
            self._judge()
        return True

    @property
    def best(self) -> dict[str, Tensor]:
        """Weights of the best pass."""
        assert self.state.best is not None
        return self.state.best

    def _step(self, batch: Batch) -> float:
        """One optimizer step; this rank's mean loss."""
        self.optimizer.zero_grad()
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.train.bf16):
            logits = self.model(batch)
        loss = click_loss(logits, batch.label)
        value = loss.item()
        if not math.isfinite(value):
            place = f"pass {self.state.epoch + 1}, batch {self.state.batch + 1}"
            raise InputError(f"{self.name}: loss is {value} ({place}); lower the lr of make ({self.config.lr})")
        (loss * self.loader.share(self.state.batch, len(batch))).backward()
        average_gradients(self.parameters, self.ranks)
        if self.train.dense.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.train.dense.clip_norm)
        self.optimizer.step()
        return value

    def _judge(self) -> None:
        """After a pass: figures on valid, the weights if they are the best so far, and all of it to disk."""
        state, metric = self.state, self.train.stop_metric
        found = valid_figures(self.model, self.samples, self.ranks)
        before = [done["valid"][metric] for done in state.passes if done["best"]]
        best = is_better(metric, found[metric], before[-1] if before else None)
        loss = state.loss / max(1, self.loader.batches)
        state.passes.append({"pass": state.epoch + 1, "loss": loss, "valid": found, "best": best})
        if best:
            state.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        self._save()
        if self.ranks.first:
            print(f"{self.name} pass {state.epoch}: loss {loss:.5f}, valid {metric} {found[metric]:.5f}")

    def _save(self) -> None:
        if self.ranks.first:
            state = {"state": vars(self.state), "module": self.module.state_dict()}
            state["optimizer"] = self.optimizer.state_dict()
            _write(state, self.path)
            facts = {"config": self.config.model_dump(mode="json"), "passes": self.state.passes}
            write_json(self.path.with_suffix(".json"), facts)
        dist.barrier()

    def _load(self) -> _State:
        try:
            saved = torch.load(self.path, map_location=self.ranks.device, weights_only=True)
            self.module.load_state_dict(saved["module"])
            self.optimizer.load_state_dict(saved["optimizer"])
            return _State(**saved["state"])
        except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.path}: damaged, or not of this recipe; remove it to begin again: {reason}"
            ) from None


def vector_samples(module: MakeExtractor, samples: SampleEncoder) -> SampleEncoder:
    """The same samples with the module's vectors and sequence alone: its passes read nothing else."""
    config, spec = module.config, samples.encoder.spec
    sequence = next(s for s in spec.sequences if s.name == config.sequence)
    sequence = sequence.model_copy(update={"fields": (), "side": (), "numbers": config.numbers})
    vectors = next(v for v in spec.vectors if v.name == config.vectors).model_copy(update={"codes": None})
    own = FeatureSpec(features=(), sequences=(sequence,), vectors=(vectors,))  # pyright: ignore[reportCallIssue]
    sources = {config.vectors: samples.vectors[config.vectors]}
    return SampleEncoder(FeatureEncoder(own, {}, {}, {}, {}), samples.dataset, sources)


def _write(state: dict[str, Any], path: Path) -> None:
    """Write atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with naming_a_full_disk(path.parent):
        torch.save(state, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(path)
