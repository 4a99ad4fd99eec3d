"""A run that follows its stores (`train.follow_stores`): after an evaluation it goes on with their newest versions.

meta.json keeps under "store_moves" after which step which versions were read (-1: from the start), so that a run that
is resumed, or goes back to an earlier checkpoint, moves at the same step to the same version. Its "stores" are those of
the best checkpoint. Only vectors that training leaves as stored move (frozen, projected).
"""

import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data.dataset import Dataset
from data.errors import InputError
from features.ranks import Ranks
from features.spec import FeatureSpec
from features.vector_source import VectorSource
from ranker.build import run_sources
from ranker.item_vectors import is_stored
from ranker.run_folder import RunFolder

Sources = dict[str, VectorSource]


def versions(sources: Sources) -> dict[str, int]:
    """Numbers of the versions that are read, by name."""
    return {name: source.version.number for name, source in sources.items()}


def sources_of_best(run: RunFolder, spec: FeatureSpec, dataset: Dataset, stores: dict[str, Path]) -> Sources:
    """The stores of a run that goes on, at the versions of its best checkpoint; `stores`: where they lie now."""
    facts = run.meta()["stores"]
    newest = run_sources(run, spec, dataset, {name: Path(then["path"]) for name, then in facts.items()} | stores)
    return _at({name: then["version"] for name, then in facts.items()}, newest, dataset)


def sources_at(run: RunFolder, step: int, sources: Sources, dataset: Dataset, ranks: Ranks) -> Sources:
    """What the last steps before a checkpoint of `step` steps read.

    A version that its store has given up is replaced by the newest, and said.
    """
    numbers = [move["versions"] for move in _moves(run) if move["step"] < step][-1]
    return same_on_all(_at(numbers, sources, dataset), dataset, ranks)


def same_on_all(sources: Sources, dataset: Dataset, ranks: Ranks) -> Sources:
    """The sources at the versions that the first rank found: another may have looked after the next was published."""
    found = [versions(sources)]
    dist.broadcast_object_list(found, device=ranks.device)
    return _at(found[0], sources, dataset)


def moved_sources(run: RunFolder, step: int, sources: Sources, dataset: Dataset, ranks: Ranks) -> Sources | None:
    """The sources after a move at `step`, which is recorded; None if no store has another version to move to."""
    found: list[dict[str, int]] = [{}]
    if ranks.first:
        again = [move["versions"] for move in _moves(run) if move["step"] == step]
        found = [again[0] if again else {name: _newest(source, dataset) for name, source in sources.items()}]
    dist.broadcast_object_list(found, device=ranks.device)
    if found[0] == versions(sources):
        return None
    moved = same_on_all(_at(found[0], sources, dataset), dataset, ranks)
    if ranks.first:
        moves = [move for move in _moves(run) if move["step"] < step]
        run.write_meta(run.meta() | {"store_moves": [*moves, {"step": step, "versions": versions(moved)}]})
        for name, number in versions(moved).items():
            if number != sources[name].version.number:
                print(f"after step {step:,}: vectors {name!r} are those of version {number}", file=sys.stderr)
    dist.barrier()
    return moved


def record_best(run: RunFolder, sources: Sources) -> None:
    """Let meta.json name the versions of the best checkpoint."""
    facts = {name: source.facts() for name, source in sources.items()}
    meta = run.meta()
    if meta["stores"] != facts:
        run.write_meta(meta | {"stores": facts})


def _moves(run: RunFolder) -> list[dict[str, Any]]:
    return run.meta()["store_moves"]


def _newest(source: VectorSource, dataset: Dataset) -> int:
    """Number of the newest version that can take the place of the source's; its own, and a line, if that does not."""
    then = source.facts()
    if not is_stored(source.spec) or source.spec.shuffle is not None:
        return then["version"]
    try:
        now = VectorSource(source.spec, source.root, dataset).facts()
        for fact in ("encoder", "dim"):
            if now[fact] != then[fact]:
                raise InputError(f"{source.root}: version {now['version']} has {fact} {now[fact]}, not {then[fact]}")
    except InputError as reason:
        print(f"moon train: staying with version {then['version']}: {reason}", file=sys.stderr)
        return then["version"]
    return now["version"]


def _at(numbers: dict[str, int], sources: Sources, dataset: Dataset) -> Sources:
    """The sources at these versions; those that are there already stay."""
    found = dict(sources)
    for name, number in numbers.items():
        source = sources[name]
        if source.version.number != number:
            try:
                found[name] = VectorSource(source.spec, source.root, dataset, number)
            except InputError as reason:
                print(f"moon train: {reason}; going on with the newest", file=sys.stderr)
                found[name] = VectorSource(source.spec, source.root, dataset)
    return found
