"""A training run of an encoder: its folder, where it stands, and how it is stopped.

OUT/{config.yaml, meta.json, metrics.jsonl, figures.json, encoder/, checkpoints/{step-N, last, best}, tb/}
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from data.config import Config, load_config
from data.errors import InputError
from data.files import write_json, write_text
from data.host import git_commit
from features.ranks import Ranks


class Interrupted(Exception):
    """SIGTERM came; the state is saved."""


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: steps done. epoch, batch: the next batch to train on. best: best value of the stop metric so far.
        evals_since_best: for patience. loss_sum, loss_steps: of the open line of metrics.jsonl.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    evals_since_best: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0


class RunFolder:
    """Where a run's files lie."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.encoder = self.root / "encoder"
        self.checkpoints = self.root / "checkpoints"
        self.log = self.root / "metrics.jsonl"
        self.figures = self.root / "figures.json"

    def open(self, config: Config, facts: dict[str, Any], ranks: Ranks, resume: bool) -> bool:
        """Write config.yaml and meta.json, or check that they are of this very run; returns whether it goes on.

        A folder without a log, whose run failed before its first step, is taken over.
        `facts`: what the run depends on besides its config (dataset, start); they must be equal when it goes on.
        Raises InputError if the folder is in use and `resume` is off, or if config or facts differ from the run's.
        """
        exists = all(path.is_file() for path in (self.root / "config.yaml", self.root / "meta.json", self.log))
        if dist.is_initialized():
            dist.barrier()  # every rank has looked before the first one writes
        if exists and not resume:
            raise InputError(f"{self.root}: holds a run already; continue it with --resume or give another --out")
        now = config.model_dump(mode="json")
        if exists:
            then = load_config(self.root / "config.yaml", type(config)).model_dump(mode="json")
            for what, old, new in (("config", then, now), ("start", self.meta()["facts"], facts)):
                for name in old.keys() | new.keys():
                    if old.get(name) != new.get(name):
                        raise InputError(
                            f"{self.root}: --resume needs the run's own {what}; {name} was {old.get(name)!r:.80} "
                            f"and is {new.get(name)!r:.80}"
                        )
            return True
        if ranks.first:
            self.root.mkdir(parents=True, exist_ok=True)
            more = {"commit": git_commit(), "device": ranks.device.type, "world_size": ranks.world_size}
            write_json(self.root / "meta.json", {"facts": facts, "torch": torch.__version__} | more)
            write_text(self.root / "config.yaml", yaml.safe_dump(now, sort_keys=False))
        return False

    def meta(self) -> dict[str, Any]:
        """meta.json."""
        return json.loads((self.root / "meta.json").read_text())


class StopSignal:
    """SIGTERM as a question that all ranks answer alike, so that all save the same step."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self._asked = ranks, False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While training: remember SIGTERM instead of dying of it."""
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_asked", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def asked(self) -> bool:
        """Whether any rank was asked to stop."""
        if self.ranks.world_size == 1:
            return self._asked
        asked = torch.tensor(int(self._asked), device=self.ranks.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked.item())
