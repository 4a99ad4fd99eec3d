"""Opening a run directory for training: fresh, or the same run continued."""

from pathlib import Path
from typing import Any

import polars as pl
import torch.distributed as dist

from data.dataset import Dataset
from data.errors import InputError
from data.host import git_commit
from features.ranks import Ranks
from features.vector_source import VectorSource, open_sources
from ranker.build import run_sources
from ranker.config import Recipe
from ranker.following import same_on_all, sources_of_best, versions
from ranker.run_folder import RunFolder
from ranker.versions import installed


def start_sources(
    run: RunFolder, recipe: Recipe, dataset: Dataset, stores: dict[str, Path], resume: bool, ranks: Ranks
) -> dict[str, VectorSource]:
    """The representation stores to train on: the newest versions, or those that the resumed run began with.

    Raises InputError for a store that is missing or unfit.
    """
    if resume and run.is_there() and recipe.train.follow_stores:
        found = sources_of_best(run, recipe.features, dataset, stores)
    elif resume and run.is_there():
        found = run_sources(run, recipe.features, dataset, stores, same=True)
    else:
        found = open_sources(recipe.features, dataset, stores)
    return same_on_all(found, dataset, ranks)


def judged_splits(dataset: Dataset) -> tuple[str, ...]:
    """The splits that a run is scored on at its end: valid, and test if the dataset has test rows."""
    return ("valid", "test") if dataset.meta["counts"]["test"] else ("valid",)


def require_both_classes(dataset: Dataset) -> None:
    """Raise InputError, before hours of training, where AUC or GAUC of valid or test rows are not defined."""
    for split in judged_splits(dataset):
        users = dataset.samples(split).group_by("user").agg(pl.col("label").min().alias("low"), pl.col("label").max())
        found = users.collect(engine="streaming")
        if found["low"].min() == found["label"].max():
            raise InputError(
                f"{dataset.root}: all labels of split {split!r} are {found['label'][0]}, so there is no AUC; "
                "prepare it with other split shares or cuts"
            )
        if (found["low"] == found["label"]).all():
            raise InputError(
                f"{dataset.root}: no user of split {split!r} has rows of both classes, so there is no GAUC; "
                "prepare it with larger splits, or with what groups rows (a request, a segment) as the user"
            )


def start_run(
    run: RunFolder,
    recipe: Recipe,
    dataset: Dataset,
    sources: dict[str, VectorSource],
    ranks: Ranks,
    resume: bool,
    encoders: dict[str, str],
    previous: RunFolder | None = None,
) -> bool:
    """Write config.yaml and meta.json, or check that they are of this very run; returns whether it goes on.

    `previous`: the run whose model it starts from.
    `encoders`: digest of the weights that each encoder starts from, by name.
    Raises InputError if the folder is in use and `resume` is off, or if recipe, dataset or encoders differ from the
    run's.
    """
    exists = run.is_there()
    dist.barrier()  # every rank has looked before the first one writes
    if exists and not resume:
        raise InputError(f"{run.root}: holds a run already; continue it with --resume or give another --out")
    if exists:
        _same(run, recipe, dataset, encoders)
        return True
    if ranks.first:
        run.root.mkdir(parents=True, exist_ok=True)
        more: dict[str, Any] = {
            "encoders": encoders or None,
            "previous": str(previous.root.resolve()) if previous else None,
        }
        if recipe.train.follow_stores:
            more["store_moves"] = [{"step": -1, "versions": versions(sources)}]
        run.write_meta(_meta(recipe, dataset, sources, ranks) | {name: value for name, value in more.items() if value})
        run.write_recipe(recipe)
    return False


def _meta(recipe: Recipe, dataset: Dataset, sources: dict[str, VectorSource], ranks: Ranks) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "dataset": {
            "path": str(dataset.root.resolve()),
            "source": dataset.meta["source"],
            "fingerprint": dataset.fingerprint,
        },
        "stores": {name: source.facts() for name, source in sources.items()},
        "commit": git_commit(),
        "versions": installed(),
        "device": ranks.device.type,
        "world_size": ranks.world_size,
    }


def _same(run: RunFolder, recipe: Recipe, dataset: Dataset, encoders: dict[str, str]) -> None:
    then, now = run.recipe().model_dump(mode="json"), recipe.model_dump(mode="json")
    if then != now:
        field = next(_differences(then, now, ""))
        raise InputError(f"{run.root}: --resume needs the run's own recipe; {field}")
    fingerprint = run.meta()["dataset"]["fingerprint"]
    if fingerprint != dataset.fingerprint:
        raise InputError(
            f"{run.root}: --resume needs the run's own dataset; it has {fingerprint[:12]}, "
            f"{dataset.root} is {dataset.fingerprint[:12]}"
        )
    for name, digest in run.meta().get("encoders", {}).items():
        if encoders[name] != digest:
            raise InputError(
                f"{run.root}: --resume needs the encoder {name!r} that the run began with; this is another"
            )


def _differences(then: Any, now: Any, path: str):
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            yield from _differences(then.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif then != now:
        yield f"{path} was {then!r:.60} and is {now!r:.60}"
