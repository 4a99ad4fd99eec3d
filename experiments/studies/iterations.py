"""`moon study iterations STUDY --out DIR`: versions along the paper's four axes, and what each step brought.

Every step changes one thing of the step before: the data, how the encoder is trained, what it is, or how the ranker
uses its vectors. Offline a step's gain is over the step before, by seeds and by users; online all steps meet the same
sessions of the days after the logs (`moon lift`).

With `twins` every step is trained a second time on shuffled vectors of its version: what a step has over its twin is
what the content brings, not the layer.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from data.config import Config, load_config, parse_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.grid import Cell, Grid
from experiments.lift.command import run_test
from experiments.lift.config import LiftConfig, RankerArm
from experiments.report.iterations import iterations_section
from experiments.studies.setting import Asked, StudyConfig, ask, finish, open_dataset, require_done
from experiments.studies.versions import Maker, VersionConfig, check_versions
from features.ranks import process_group
from ranker.compare import Rows, difference, read_runs, spread
from ranker.config import Recipe
from ranker.run_folder import RunFolder

START = "id_only"
TWIN = "_shuffled"  # behind the name of a step, and of a version


class Iteration(Config):
    """One step."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(description="what it changes, for the waterfall")
    axis: Literal["data", "training", "model", "application"] = Field(description="the paper's axis that it moves on")
    version: str = Field(description="the encoder version that its ranker reads")
    recipe: Path = Field(description="its ranker, which reads one kind of vectors")
    set: tuple[str, ...] = Field((), description="changed fields of it, A.B=C")


class IterationsConfig(StudyConfig):
    """The study."""

    id_only: Path = Field(description="recipe without vectors, where it starts")
    set: tuple[str, ...] = Field((), description="changed fields of all recipes")
    versions: tuple[VersionConfig, ...] = Field(min_length=1)
    steps: tuple[Iteration, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2)
    twins: bool = Field(False, description="train every step on shuffled vectors as well")
    draws: int = Field(1000, ge=100, description="bootstrap draws over users")
    days: int = Field(0, ge=0, description="days of the online test; 0: none")

    @model_validator(mode="after")
    def _consistent(self) -> "IterationsConfig":
        check_versions(self.versions)
        known = [v.name for v in self.versions]
        names = [step.name for step in self.steps]
        for step in self.steps:
            if step.version not in known:
                raise ValueError(f"step {step.name!r}: no version {step.version!r} (there are: {', '.join(known)})")
        taken = [START, *(n + TWIN for n in names if self.twins)]
        if len(set(names)) < len(names) or set(taken) & set(names):
            raise ValueError(f"steps need names of their own, none of them {START!r} or a step's twin (NAME{TWIN})")
        return self

    @property
    def arms(self) -> list[Iteration]:
        """The steps, each with its twin behind it."""
        found = []
        for step in self.steps:
            found.append(step)
            if self.twins:
                words = {"name": step.name + TWIN, "version": step.version + TWIN}
                found.append(step.model_copy(update=words))
        return found

    @property
    def made(self) -> list[VersionConfig]:
        """The versions, and behind them the shuffled ones that twins read."""
        read = {step.version for step in self.steps} if self.twins else set()
        twins = [{"name": v.name + TWIN, "shuffle": v.name} for v in self.versions if v.name in read]
        return [*self.versions, *(parse_config(twin, VersionConfig, "twin") for twin in twins)]


def main(argv: list[str]) -> int:
    """The command. Returns 1 if a cell failed."""
    study, asked = ask("iterations", "What each step of the paper's four axes brings.", IterationsConfig, argv)
    dataset = open_dataset(asked, study.world)
    if study.days and asked.data is not None:
        raise InputError("days: an online test needs the study's own world; leave out --data, or set days to 0")
    stores: dict[str, Path] = {}
    with process_group() as ranks:
        maker = Maker(dataset, asked.out / "versions", asked.folder, ranks, "test", 1000, rich=study.rich)
        for version in study.made:
            maker.make(version)
            stores[version.name] = maker.store(version)
    grid = Grid(asked.out / "runs", _cells(study, asked, dataset, stores))
    outcomes = grid.run(asked.jobs, asked.shard)
    failed = require_done(outcomes)
    if failed:
        raise InputError(f"{len(failed)} cells failed; a waterfall needs every step: {failed[0]}")
    findings = gather(study, dataset, [o.run for o in outcomes])
    findings |= {"online": _online(study, asked, grid) if study.days else None, "failed": []}
    return finish(asked, "iterations", study, findings, iterations_section(findings))


def _cells(study: IterationsConfig, asked: Asked, dataset: Dataset, stores: dict[str, Path]) -> list[Cell]:
    cells = []
    for seed in study.seeds:
        changes = [*study.set, f"seed={seed}"]
        cells.append(Cell(load_config(asked.folder / study.id_only, Recipe, [*changes, f"name={START}"]), dataset.root))
        for step in study.arms:
            recipe = load_config(asked.folder / step.recipe, Recipe, [*changes, *step.set, f"name={step.name}"])
            vectors = [v.name for v in recipe.features.vectors]
            if len(vectors) != 1:
                raise InputError(
                    f"step {step.name!r}: its recipe reads {len(vectors)} kinds of vectors; it must read one"
                )
            cells.append(Cell(recipe, dataset.root, {vectors[0]: stores[step.version]}))
    return cells


def gather(study: IterationsConfig, dataset: Dataset, runs: list[RunFolder]) -> dict[str, Any]:
    """Levels of every step, and its gain over the step before, over the start and over its twin (content; None without
    twins), with both kinds of intervals."""
    rows, recipes = read_runs(runs, "test")
    rows = Rows(rows.label, rows.user, {})  # no slices
    by_name = {recipe.name: recipe for recipe in recipes}
    facts = {name: spread(recipe, rows) for name, recipe in by_name.items()}
    steps, before = [], START
    for step in study.steps:
        own = difference(by_name[before], by_name[step.name], facts, rows, study.draws)
        whole = difference(by_name[START], by_name[step.name], facts, rows, study.draws)
        content = None
        if study.twins:
            content = _gains(difference(by_name[step.name + TWIN], by_name[step.name], facts, rows, study.draws))
        steps.append({
            "name": step.name, "title": step.title, "axis": step.axis, "version": step.version,
            "levels": {m: facts[step.name][m] for m in ("auc", "gauc")},
            "own": _gains(own), "whole": _gains(whole), "content": content,
        })  # fmt: skip
        before = step.name
    return {
        "source": dataset.meta["source"],
        "dataset": dataset.fingerprint,
        "rows": len(rows.label),
        "users": len(np.unique(rows.user)),
        "seeds": list(study.seeds),
        "start": {m: facts[START][m] for m in ("auc", "gauc")},
        "steps": steps,
    }


def _gains(found: dict[str, Any]) -> dict[str, Any]:
    return {
        metric: {"users": found["rows"][key], "seeds": found["seeds"].get(metric)}
        for metric, key in (("auc", "auc_by_user"), ("gauc", "gauc"))
    }


def _online(study: IterationsConfig, asked: Asked, grid: Grid) -> dict[str, Any]:
    """Lift of the true click rate of every step over the start, one test a seed; levels, so that steps can be told."""
    tests = []
    for seed in study.seeds:
        names = [START, *(step.name for step in study.arms)]
        folders = {c.recipe.name: grid.folder(c).root for c in grid.cells if c.recipe.seed == seed}
        arms = {name: RankerArm(run=folders[name]) for name in names}
        config = LiftConfig(  # pyright: ignore[reportCallIssue]
            logs=asked.out / "logs", data=asked.out / "data", arms=arms, control=START, days=study.days, aa_replays=0
        )
        with process_group() as ranks:
            found = run_test(config, asked.out / "lift" / f"s{seed}", ranks)
        levels = {name: found["arms"][name]["metrics"]["true_ctr"]["level"]["value"] for name in (*names, "oracle")}
        lifts = {name: found["arms"][name]["metrics"]["true_ctr"]["lift"] for name in names[1:]}
        tests.append({"seed": seed, "levels": levels, "lifts": lifts, "sessions": found["sessions"]})
    return {"days": study.days, "tests": tests}
