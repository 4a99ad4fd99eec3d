"""Checkpoints of an encoder's training, which resume bit for bit.

A checkpoint holds the trained weights only (what is frozen comes again from where the run started), the optimizer, the
state that each rank has for itself (queues, random state) and the position. It is published by one rename.
"""

import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from data.errors import InputError
from data.files import write_json
from features.ranks import Ranks
from moon_encoder.run import Progress


class Checkpoints:
    """Saves and loads the state of a run whose ranks hold the same weights."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder, self.ranks = folder, ranks

    def save(
        self,
        modules: dict[str, nn.Module],
        own: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        best: bool = False,
    ) -> None:
        """Write a checkpoint and point `last` (and `best`) at it; older ones that nothing points to go.

        modules: the same on every rank, trained weights only are kept. own: of each rank, kept whole.
        """
        name = f"step-{progress.step:08d}"
        final, part = self.folder / name, self.folder / f".{name}"
        exists = final.exists()
        self._meet()
        if not exists:
            if self.ranks.first:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                state = {key: trained(module) for key, module in modules.items()}
                torch.save({"modules": state, "optimizer": optimizer.state_dict()}, part / "shared.pt")
            self._meet()
            mine = {"own": {key: module.state_dict() for key, module in own.items()}, "rng": _rng()}
            torch.save(mine, part / f"rank{self.ranks.rank}.pt")
            self._meet()
        if self.ranks.first:
            target = final if exists else part
            write_json(target / "state.json", {"world_size": self.ranks.world_size, "progress": vars(progress)})
            if not exists:
                for path in part.iterdir():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                os.rename(part, final)
            for link in ("last", "best") if best else ("last",):
                _link(self.folder / link, name)
            self._prune()
        self._meet()

    def has(self, which: str) -> bool:
        """Whether there is a checkpoint `last` (or `best`)."""
        return (self.folder / which).exists()

    def load(
        self,
        which: str,
        modules: dict[str, nn.Module],
        own: dict[str, nn.Module] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Progress:
        """Load `last` or `best`; with `optimizer`, everything that training goes on from.

        Raises InputError if there is none, if it is damaged, or for training at another number of ranks.
        """
        folder = self.folder / which
        try:
            facts = json.loads((folder / "state.json").read_text())
            shared = torch.load(folder / "shared.pt", map_location=self.ranks.device, weights_only=True)
            for key, module in modules.items():
                _fill(module, shared["modules"][key])
            if optimizer is not None:
                if facts["world_size"] != self.ranks.world_size:
                    raise InputError(
                        f"{folder}: the run had {facts['world_size']} rank(s); go on with --nproc {facts['world_size']}"
                    )
                optimizer.load_state_dict(shared["optimizer"])
                mine = torch.load(folder / f"rank{self.ranks.rank}.pt", map_location="cpu", weights_only=True)
                for key, module in (own or {}).items():
                    module.load_state_dict(mine["own"][key])
                torch.set_rng_state(mine["rng"]["cpu"])
                if "cuda" in mine["rng"]:
                    torch.cuda.set_rng_state(mine["rng"]["cuda"])
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}: no such checkpoint, or it is damaged or of another model: {reason}") from None
        return Progress(**facts["progress"])

    def _meet(self) -> None:
        if dist.is_initialized():
            dist.barrier()

    def _prune(self) -> None:
        kept = {os.readlink(link) for link in (self.folder / "last", self.folder / "best") if link.is_symlink()}
        for path in self.folder.iterdir():
            if not path.is_symlink() and path.name.lstrip(".").startswith("step-") and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


def trained(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a module that take a gradient."""
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}


@torch.no_grad()
def _fill(module: nn.Module, saved: dict[str, torch.Tensor]) -> None:
    here = trained(module)
    if here.keys() != saved.keys():
        raise ValueError(f"trained weights differ, such as {sorted(here.keys() ^ saved.keys())[0]}")
    for name, value in here.items():
        value.copy_(saved[name])


def _rng() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _link(link: Path, name: str) -> None:
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.symlink_to(name)
    os.replace(part, link)
