"""`moon study tune STUDY --data DIR --out DIR`: hyper-parameters of one recipe, by Optuna, on valid only.

Trials run on a view of the dataset that has no test rows, so that there is no test figure to read; a run that was
scored on test is refused. The trials' runs are the search's only memory: it is replayed from them and goes on.

    OUT/study.yaml, dataset-without-test/, trials/trial-N/, tuning.json, best.yaml (the recipe to train)
"""

import argparse
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from pydantic import Field

from data.config import Config, assign, load_config, parse_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.host import keep_freed_memory
from experiments.ablation.cells import needed
from experiments.ablation.command import named_stores
from experiments.ablation.config import Choice
from experiments.ablation.tuning import blind_view, suggest, valid_metric
from experiments.grid import Cell, Grid, grid_flags
from ranker.config import Recipe


class TuneConfig(Config):
    """The search. The first trial is the recipe as it is."""

    recipe: Path = Field(description="recipe to tune; a relative path starts at the study's folder")
    set: tuple[str, ...] = Field((), description="changed fields of it, A.B=C")
    space: dict[str, Choice] = Field(min_length=1, description="by dotted path of the recipe")
    trials: int = Field(20, ge=1)
    together: int = Field(1, ge=1, description="trials asked for at once (they do not know of each other)")
    metric: Literal["auc", "gauc"] = Field("auc", description="of valid, to be raised")
    sampler_seed: int = 0
    seed: int = Field(1000, description="the recipe's seed in every trial; report with other seeds")


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon study tune", description="Hyper-parameters of a recipe, on valid only.")
    parser.add_argument("study", type=Path, help="the search (YAML)")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--store", action="append", default=[], metavar="NAME=DIR", help="representation store")
    parser.add_argument("--out", type=Path, required=True, help="folder of the search; what is finished there stays")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the search")
    parser.add_argument("--json", type=Path, help="write the trials here as well")
    grid_flags(parser)
    args = parser.parse_args(argv)
    if args.shard:
        raise InputError("--shard: each trial depends on those before it; use --jobs with the field `together`")
    keep_freed_memory()
    study = load_config(args.study, TuneConfig, args.set)
    path, plain = args.out / "study.yaml", study.model_dump(mode="json")
    if path.is_file() and yaml.safe_load(path.read_text()) != plain:
        raise InputError(f"{path}: another search than this one; give another --out")
    recipe = load_config(args.study.parent / study.recipe, Recipe, study.set)
    stores = needed(recipe, named_stores(args.store))
    write_text(path, yaml.safe_dump(plain, sort_keys=False))
    blind = blind_view(Dataset(args.data), args.out / "dataset-without-test")
    found = search(study, recipe, blind, stores, args.out / "trials", args.jobs)
    write_json(args.out / "tuning.json", found)
    best = changed(recipe, found["settings"])
    write_text(args.out / "best.yaml", yaml.safe_dump(best.model_dump(mode="json"), sort_keys=False))
    if args.json:
        write_json(args.json, found)
    start = found["trials"][0]["value"]
    print(
        f"valid {study.metric.upper()} {found['value']:.5f} (the recipe as it is: {start:.5f}), {study.trials} trials"
    )
    for name, value in found["settings"].items():
        print(f"  {name}: {value}")
    print(f"{args.out / 'best.yaml'}: train it with other seeds; the best of many trials looks better than it is")
    return 0


def search(
    study: TuneConfig, recipe: Recipe, data: Path, stores: dict[str, Path], root: Path, jobs: int
) -> dict[str, Any]:
    """-> {settings, value, trials}. `data`: without test rows. A failed trial counts as a trial.

    Raises InputError for data with test rows, a path that no field has, a start outside its range, or if all failed.
    """
    if Dataset(data).meta["counts"]["test"]:
        raise InputError(f"{data}: has test rows; a search must not see them (give a blind view)")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=study.sampler_seed, constant_liar=study.together > 1)
    optimizer = optuna.create_study(direction="maximize", sampler=sampler)
    optimizer.enqueue_trial(_start(study, recipe))
    trials: list[dict[str, Any]] = []
    while len(trials) < study.trials:
        asked = [optimizer.ask() for _ in range(min(study.together, study.trials - len(trials)))]
        settings = [{path: suggest(trial, path, choice) for path, choice in study.space.items()} for trial in asked]
        cells = []
        for number, values in enumerate(settings, len(trials)):
            one = changed(recipe, values | {"name": f"trial-{number}", "seed": study.seed})
            cells.append(Cell(one, data, stores))
        for trial, values, outcome in zip(asked, settings, Grid(root, cells).run(jobs), strict=True):
            value = None if outcome.error else valid_metric(outcome.run, study.metric)
            optimizer.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)
            trials.append({"settings": values, "value": value, "error": outcome.error})
    done = [trial for trial in trials if trial["value"] is not None]
    if not done:
        raise InputError(f"all {len(trials)} trials failed; the last: {trials[-1]['error']}")
    best = max(done, key=lambda trial: trial["value"])
    return {"settings": best["settings"], "value": best["value"], "metric": study.metric, "trials": trials}


def changed(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with fields changed, by dotted path."""
    tree = recipe.model_dump(mode="json")
    for path, value in values.items():
        assign(tree, path, value)
    return parse_config(tree, Recipe, "the recipe as changed by the search")


def _start(study: TuneConfig, recipe: Recipe) -> dict[str, Any]:
    found = {}
    for path, choice in study.space.items():
        node: Any = recipe.model_dump(mode="json")
        for part in path.split("."):
            if not isinstance(node, dict) or part not in node:
                raise InputError(f"space: the recipe has no field {path!r}")
            node = node[part]
        if not choice.holds(node):
            raise InputError(f"space.{path}: {node!r}, the recipe's own value, lies outside")
        found[path] = node
    return found
