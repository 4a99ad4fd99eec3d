"""Equal tuning for every mechanism, on valid only.

Trials run on a *blind view* of the dataset: the same files without the test samples, so that no test metric exists
for the tuner to read. The trials' run directories are its only memory: with the sampler's seed fixed, the search is
replayed from them, and goes on where it stopped.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import optuna

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from experiments.ablation.cells import Recipes, Variant, needed
from experiments.ablation.config import Choice, Tuning
from experiments.grid import ALL, NOTHING, Cell, Grid, Shard, require_all_there
from ranker.run_folder import RunFolder


def blind_view(dataset: Dataset, out: Path) -> Path:
    """A dataset at `out` that shares the files of `dataset`, but has no test samples; made once."""
    if (out / "dataset.json").is_file():
        made_of = Dataset(out)
        if made_of.fingerprint != dataset.fingerprint:
            raise InputError(f"{out}: a view of another dataset; remove it or use another --out")
        return out
    link_dataset(dataset, out, without=("samples/test",))
    counts = dataset.meta["counts"] | {"test": 0}
    write_json(out / "dataset.json", dataset.meta | {"counts": counts})
    return out


def link_dataset(dataset: Dataset, out: Path, without: tuple[str, ...]) -> None:
    """Make `out` share the files of `dataset`, except `without` and dataset.json, which come last."""
    shutil.rmtree(out, ignore_errors=True)
    root = dataset.root.resolve()
    for folder in (out / "samples", out / "behaviors"):  # what is derived from behaviours is written beside them
        folder.mkdir(parents=True)
    shared = [path for path in root.iterdir() if path.name not in ("samples", "behaviors", "dataset.json")]
    shared += list((root / "samples").iterdir())
    shared += [path for path in (root / "behaviors").iterdir() if "-" not in path.name]
    for path in shared:
        name = path.relative_to(root)
        if str(name) not in without:
            (out / name).symlink_to(path)


class Tuner:
    """The searches of all mechanisms, one trial of each at a time."""

    def __init__(self, recipes: Recipes, tuning: Tuning, data: Path, stores: dict[str, Path], root: Path) -> None:
        """`data`: a dataset without test rows, such as a blind view. `root`: folder of the trials' runs.

        Raises InputError if `data` has test rows.
        """
        dataset = Dataset(data)
        if dataset.meta["counts"]["test"]:
            raise InputError(f"{data}: has test rows; tuning must not see them (give a blind view)")
        self.recipes, self.tuning, self.data, self.stores, self.root = recipes, tuning, data, stores, root
        self.mechanisms = recipes.study.searched()
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def run(self, jobs: int, shard: Shard = ALL) -> dict[str, dict[str, Any]]:
        """Search; -> by mechanism {settings, value, trials}, those of another for one that is `tuned_as` it.

        A failed trial counts as a trial.

        A shard searches for every N-th mechanism and reads what the others found.
        Raises InputError where every trial of a mechanism failed, or another shard's are not finished.
        """
        mine = [name for place, name in enumerate(self.mechanisms) if shard.mine(place)]
        found = self._run(mine, jobs, ALL)
        found |= self._run([name for name in self.mechanisms if name not in mine], jobs, NOTHING)
        return {m.name: found[m.tuned_as or m.name] for m in self.recipes.study.mechanisms}

    def _run(self, mechanisms: list[str], jobs: int, shard: Shard) -> dict[str, dict[str, Any]]:
        searches = {name: self._search(name) for name in mechanisms}
        trials: dict[str, list[dict[str, Any]]] = {name: [] for name in mechanisms}
        for number in range(self.tuning.trials if mechanisms else 0):
            asked = {name: search.ask() for name, search in searches.items()}
            settings = {name: self._suggested(trial) for name, trial in asked.items()}
            outcomes = Grid(self.root, self._cells(number, settings)).run(jobs, shard)
            require_all_there(outcomes)
            for name, outcome in zip(mechanisms, outcomes, strict=True):
                value = None if outcome.error else valid_metric(outcome.run, self.tuning.metric)
                if value is None:
                    searches[name].tell(asked[name], state=optuna.trial.TrialState.FAIL)
                else:
                    searches[name].tell(asked[name], value)
                trials[name].append({"settings": settings[name], "value": value, "error": outcome.error})
        return {name: self._best(name, found) for name, found in trials.items()}

    def _search(self, mechanism: str) -> optuna.Study:
        """A search whose first trial is the recipe as it is."""
        sampler = optuna.samplers.TPESampler(seed=self.tuning.sampler_seed)
        search = optuna.create_study(direction="maximize", sampler=sampler)
        first = self.recipes.values(mechanism, self.tuning.space)
        for path, value in first.items():
            if not self.tuning.space[path].holds(value):
                raise InputError(
                    f"tuning.space.{path}: {value!r}, the recipe's own value for mechanism {mechanism!r}, lies outside"
                )
        search.enqueue_trial(first)
        return search

    def _cells(self, number: int, settings: dict[str, dict[str, Any]]) -> list[Cell]:
        return [
            trial(self.recipes, self.tuning, name, number, values, self.data, self.stores)
            for name, values in settings.items()
        ]

    def _suggested(self, trial: optuna.Trial) -> dict[str, Any]:
        return {path: suggest(trial, path, choice) for path, choice in self.tuning.space.items()}

    def _best(self, name: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
        done = [trial for trial in trials if trial["value"] is not None]
        if not done:
            raise InputError(f"tuning: all {len(trials)} trials of {name!r} failed; the last: {trials[-1]['error']}")
        best = max(done, key=lambda trial: trial["value"])
        return {"settings": best["settings"], "value": best["value"], "trials": trials}


def trial(
    recipes: Recipes,
    tuning: Tuning,
    mechanism: str,
    number: int,
    settings: dict[str, Any],
    data: Path,
    stores: dict[str, Path],
) -> Cell:
    """The run of one trial of a mechanism's search."""
    reads = recipes.reads_vectors(mechanism)
    variant = Variant(mechanism, tuning.mode, tuning.dim) if reads else Variant(mechanism)
    recipe = recipes.recipe(variant, tuning.seed, settings, f"{mechanism}-trial{number}")
    return Cell(recipe, data, needed(recipe, stores))


def planned(recipes: Recipes, tuning: Tuning, data: Path, stores: dict[str, Path]) -> list[Cell]:
    """All trials, with the recipes' own settings in place of those that the search has not chosen yet."""
    names = recipes.study.searched()
    return [trial(recipes, tuning, name, k, {}, data, stores) for k in range(tuning.trials) for name in names]


def valid_metric(run: RunFolder, metric: str) -> float:
    """A figure of a trial, of the valid split.

    Raises InputError if the run was scored on test: then it was no trial.
    """
    if run.metrics("test").exists() or run.predictions("test").exists():
        raise InputError(f"{run.root}: was scored on the test split; the tuner refuses it")
    return float(json.loads(run.metrics("valid").read_text())[metric])


def suggest(trial: optuna.Trial, path: str, choice: Choice) -> Any:
    """A trial's value of one hyper-parameter."""
    if choice.values is not None:
        return trial.suggest_categorical(path, list(choice.values))
    assert choice.low is not None and choice.high is not None
    return trial.suggest_float(path, choice.low, choice.high, log=choice.log)
