"""Checkpoints: torch.distributed.checkpoint folders, published by one rename, resumed bit for bit.

checkpoints/step-00000120/ holds the sharded tensors (model, optimizers) and state.json (position, schema, log sums);
`last` and `best` are links. A folder under its final name is complete: it is written under a hidden name first. The
one before the last is kept: training goes on from it, and says so, if the last turns out damaged.
Vectors that training does not change are not copied: the run's meta.json names their store, its version and
fingerprint, and building the ranker reads them from there.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from data.errors import InputError
from data.files import naming_a_full_disk, write_json
from features.ranks import Ranks
from ranker.end_to_end import ItemEncoders
from ranker.model import Ranker
from ranker.snapshot import snapshot

STATE = "state.json"


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


class Damaged(InputError):
    """A checkpoint cannot be read."""


class Checkpoints:
    """Saves and loads the state of a run; `schema` is the feature encoder's fingerprint."""

    def __init__(
        self,
        folder: Path,
        schema: str,
        ranks: Ranks,
        batch_size: int = 1,
        encoders: ItemEncoders | None = None,
        asynchronous: bool = False,
    ) -> None:
        """`batch_size`: rows a rank and step, to know the rows done when training goes on. `encoders`: of end_to_end
        vectors, in training; what reads a trained run has no need of either. `asynchronous`: write copies of the state
        in a thread while training goes on, one at a time."""
        self.folder, self.schema, self.ranks, self.encoders = folder, schema, ranks, encoders
        self.global_batch = batch_size * ranks.world_size
        self._group = dist.new_group(backend="gloo") if asynchronous else None
        self._pending: Future[None] | None = None

    def save(
        self, model: DistributedModelParallel, optimizer: CombinedOptimizer, progress: Progress, best: bool = False
    ) -> None:
        """Write a checkpoint and point `last` (and `best`) at it; older ones go, but for the one before.

        Raises OSError if the disk is full, RuntimeError for other failures; asynchronous, of the save before.
        """
        self.wait()
        final = self.folder / f"step-{progress.step:08d}"
        part = final.with_name(f".{final.name}")
        facts = {"schema": self.schema, "world_size": self.ranks.world_size, "progress": dict(vars(progress))}
        facts["global_batch"] = self.global_batch
        exists = final.exists()
        if self.ranks.first and not exists:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
        dist.barrier()
        if exists:
            self._publish(final, final, facts, best)
        else:
            state = {
                "model": own_state(model),
                "optimizer": _with_state(optimizer),
                "rng": {_rng_key(self.ranks): _rng()},
            } | self._of_encoders()
            if self._group is not None:
                self._pending = _in_thread(self._write_and_publish, snapshot(state), part, final, facts, best)
                return
            self._write_and_publish(state, part, final, facts, best)
        dist.barrier()

    def wait(self) -> None:
        """Until the checkpoint in the making, if any, is published; raises what its writing raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
            dist.barrier()

    def leave(self) -> None:
        """Training ends by an exception: until the writing has ended, too; no other rank is waited for.

        What the writing raised is told on stderr, since another exception is on its way.
        """
        pending, self._pending = self._pending, None
        failure = pending.exception() if pending is not None else None  # waits
        if failure is not None:
            print(f"moon: {self.folder}: the last checkpoint is not written: {failure}", file=sys.stderr)

    def _write_and_publish(
        self, state: dict[str, Any], part: Path, final: Path, facts: dict[str, Any], best: bool
    ) -> None:
        self._write(state, part)
        self._publish(part, final, facts, best)

    def _publish(self, part: Path, final: Path, facts: dict[str, Any], best: bool) -> None:
        """Give the written folder its name and let the links point at it; the first rank does."""
        if not self.ranks.first:
            return
        files = {path.name: path.stat().st_size for path in part.iterdir() if path.name != STATE}
        write_json(part / STATE, {**facts, "files": files})
        if part != final:
            _sync(part)
            os.rename(part, final)
        for link in ("last", "best") if best else ("last",):
            _link(self.folder / link, final.name)
        self._prune()

    def _write(self, state: dict[str, Any], part: Path) -> None:
        """Write the tensors; what is written of them goes again if that fails."""
        try:
            with naming_a_full_disk(part):
                try:
                    dcp.save(state, checkpoint_id=part, process_group=self._group)  # pyright: ignore[reportArgumentType]
                except dcp.api.CheckpointException as error:  # a BaseException, that nobody above would catch
                    raise RuntimeError(f"{part}: not written: {' '.join(str(error).split())[-200:]}") from error
        except BaseException:
            if self.ranks.first:
                shutil.rmtree(part, ignore_errors=True)
            raise

    def has(self, which: str) -> bool:
        """Whether there is a checkpoint `last` (or `best`)."""
        return (self.folder / which).exists()

    def load(self, which: str, model: DistributedModelParallel, optimizer: CombinedOptimizer | None = None) -> Progress:
        """Load `last` or `best` into the model (and optimizers).

        At another number of ranks the epoch goes on at the same row, rounded down to a whole batch. Training (with
        `optimizer`) goes on from an earlier checkpoint if the last is damaged: what came after it is removed.

        Raises InputError if there is none, if it was made with another feature schema, or if none can be read.
        """
        self.wait()
        folder = self.folder / which
        if not folder.exists():
            raise InputError(f"{folder}: no such checkpoint; the run has not finished its first evaluation")
        folder = folder.resolve()
        earlier = sorted(p for p in self.folder.glob("step-*") if p.name < folder.name) if optimizer is not None else []
        try:
            return self._read(folder, model, optimizer)
        except Damaged as damage:
            if not earlier:
                raise
            if self.ranks.first:
                print(f"moon: {damage}; going on from {earlier[-1].name}", file=sys.stderr)
        progress = self._read(earlier[-1], model, optimizer)
        dist.barrier()
        if self.ranks.first:
            _link(self.folder / "last", earlier[-1].name)
            for path in self.folder.glob("step-*"):
                if path.name > earlier[-1].name:
                    shutil.rmtree(path)
        dist.barrier()
        return progress

    def _read(
        self, folder: Path, model: DistributedModelParallel, optimizer: CombinedOptimizer | None = None
    ) -> Progress:
        facts = self._facts(folder)
        if facts["schema"] != self.schema:
            raise InputError(
                f"{folder}: the checkpoint was made with another feature schema "
                f"({facts['schema'][:12]}, this recipe and dataset give {self.schema[:12]}); "
                "train in a new --out, or restore the recipe's features and the dataset"
            )
        state: dict[str, Any] = {"model": own_state(model)} | self._of_encoders()
        if optimizer is not None:
            state["optimizer"] = _with_state(optimizer)
            key = _rng_key(self.ranks)
            if facts["world_size"] == self.ranks.world_size:
                state["rng"] = {key: _rng()}
        try:
            dcp.load(state, checkpoint_id=folder)
        except (dcp.api.CheckpointException, OSError, EOFError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Damaged(f"{folder}: the checkpoint is damaged or does not fit the model: {reason}") from None
        model.load_state_dict(model.state_dict() | state["model"])
        if self.encoders:
            self.encoders.load_state(state["encoders"])
        if optimizer is not None:
            whole, read = optimizer.state_dict(), state["optimizer"]
            optimizer.load_state_dict({**read, "state": whole["state"] | read["state"]})
            for saved in state.get("rng", {}).values():
                _restore_rng(saved)
        progress = Progress(**facts["progress"])
        then = facts.get("global_batch", self.global_batch * facts["world_size"] // self.ranks.world_size)
        progress.batch = progress.batch * then // self.global_batch  # rows done, in our batches
        return progress

    def _of_encoders(self) -> dict[str, Any]:
        return {"encoders": self.encoders.state()} if self.encoders else {}

    def _facts(self, folder: Path) -> dict[str, Any]:
        """What state.json says, once every file is as long as it says."""
        try:
            facts = json.loads((folder / STATE).read_text())
            expected = facts.get("files", {})  # checkpoints of before knew neither sizes nor batch
            found = {name: (folder / name).stat().st_size for name in expected}
        except (OSError, ValueError) as error:
            raise Damaged(f"{folder / STATE}: not readable, the checkpoint is damaged: {error}") from None
        for name, size in expected.items():
            if found[name] != size:
                raise Damaged(f"{folder / name}: {found[name]:,} of {size:,} bytes, the checkpoint is damaged")
        return facts

    def _prune(self) -> None:
        """Remove all but what the links point at and the one before the last."""
        kept = {os.readlink(link) for link in (self.folder / "last", self.folder / "best") if link.is_symlink()}
        last = os.readlink(self.folder / "last")
        kept |= set(sorted(p.name for p in self.folder.glob("step-*") if p.name < last)[-1:])
        for path in self.folder.iterdir():
            if not path.is_symlink() and path.name.lstrip(".").startswith("step-") and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _in_thread(work: Callable[..., None], *arguments: Any) -> Future[None]:
    """Run `work` in a thread of its own, which the interpreter waits for at its exit."""
    pool = ThreadPoolExecutor(1, "checkpoint")
    future = pool.submit(work, *arguments)
    pool.shutdown(wait=False)
    return future


def own_state(model: DistributedModelParallel) -> dict[str, Any]:
    """The state that training may have changed: all but tables whose content is a version of a store."""
    stored = stored_prefixes(model)
    return {name: value for name, value in model.state_dict().items() if not name.startswith(stored)}


def _with_state(optimizer: CombinedOptimizer) -> dict[str, Any]:
    """The optimizer's state without parameters that have none (sgd, vectors as stored).

    Where each rank holds other keys, torch.distributed.checkpoint would look for those too, which it has not written.
    """
    found = optimizer.state_dict()
    return {**found, "state": {name: state for name, state in found["state"].items() if state}}


def stored_prefixes(model: DistributedModelParallel) -> tuple[str, ...]:
    """How the names of the tables begin whose content is a version of a store."""
    return tuple(f"vectors.collections.{name}." for name in cast(Ranker, model.module).stored)


def _rng() -> dict[str, torch.Tensor]:
    """Random state of this rank: of the CPU, and of its GPU."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_rng(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _rng_key(ranks: Ranks) -> str:
    return f"rank{ranks.rank}"


def _link(link: Path, name: str) -> None:
    """Point `link` at the sibling `name` in one step."""
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.symlink_to(name)
    os.replace(part, link)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
