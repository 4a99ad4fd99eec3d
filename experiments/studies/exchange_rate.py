"""`moon study exchange-rate STUDY --out DIR`: what a point of an intermediate metric buys in the ranker.

Encoder versions x one fixed CTR recipe x seeds. Every version is measured by itself (experiments/studies/measures.py),
then read by the recipe; the gain over the same recipe without vectors is fitted on each metric over the versions.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.grid import Cell, Grid, Outcome
from experiments.report.exchange import exchange_section
from experiments.studies.exchange_fit import LEAST, exchange_rate
from experiments.studies.measures import Measured
from experiments.studies.metric_names import TITLES
from experiments.studies.setting import (
    Asked,
    StudyConfig,
    ask,
    figures_on_test,
    finish,
    open_dataset,
    require_done,
    tried,
)
from experiments.studies.versions import Maker, VersionConfig, check_versions
from features.ranks import process_group
from ranker.config import Recipe

METRICS = ("auc", "gauc")
CATEGORY = "category_"


class ExchangeConfig(StudyConfig):
    """The study."""

    id_only: Path = Field(description="recipe without vectors that gains are counted from")
    recipe: Path = Field(description="the fixed recipe, which reads one kind of vectors")
    set: tuple[str, ...] = Field((), description="changed fields of both recipes, A.B=C")
    versions: tuple[VersionConfig, ...] = Field(min_length=5, description="encoder versions, worst guess first")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=3, description="of the rankers")
    split: Literal["valid", "test"] = Field("test", description="of the log, on which vectors are measured")
    queries: int = Field(2000, ge=50, description="most queries of a metric, drawn")

    @model_validator(mode="after")
    def _versions(self) -> "ExchangeConfig":
        check_versions(self.versions)
        return self


def main(argv: list[str]) -> int:
    """The command. Returns 1 if a cell failed."""
    study, asked = ask("exchange-rate", "What a point of an intermediate metric buys.", ExchangeConfig, argv)
    dataset = open_dataset(asked, study.world)
    measured, stores, lost = versions(study, asked, dataset)
    outcomes = Grid(asked.out / "runs", _cells(study, asked.folder, dataset, stores)).run(asked.jobs, asked.shard)
    failed = lost + require_done(outcomes)
    findings = gather(study, dataset, measured, outcomes) | {"failed": failed}
    return finish(asked, "exchange-rate", study, findings, exchange_section(findings))


def versions(
    study: ExchangeConfig, asked: Asked, dataset: Dataset
) -> tuple[dict[str, dict[str, Any]], dict[str, Path], list[str]]:
    """The metrics and the store of every version, by name, and what became of those that could not be made."""
    measured: dict[str, dict[str, Any]] = {}
    stores: dict[str, Path] = {}
    failed: list[str] = []
    with process_group() as ranks:
        folder, base = asked.out / "versions", asked.folder
        maker = Maker(dataset, folder, base, ranks, study.split, study.queries, rich=study.rich)
        questions = Measured.of(dataset, maker.contents, maker.searches, study.split, study.queries)
        for version in study.versions:
            found = tried(version.name, lambda v=version: questions.measure(maker.make(v)), failed)
            if found is not None:
                measured[version.name], stores[version.name] = found, maker.store(version)
    return measured, stores, failed


def _cells(study: ExchangeConfig, folder: Path, dataset: Dataset, stores: dict[str, Path]) -> list[Cell]:
    """Of the versions that have a store; seeds outermost, so that a study cut short has whole comparisons."""
    cells = []
    for seed in study.seeds:
        changes = [*study.set, f"seed={seed}"]
        cells.append(Cell(load_config(folder / study.id_only, Recipe, [*changes, "name=id_only"]), dataset.root))
        for version in study.versions:
            recipe = load_config(folder / study.recipe, Recipe, [*changes, f"name=with_{version.name}"])
            names = [v.name for v in recipe.features.vectors]
            if len(names) != 1:
                raise InputError(f"recipe: {study.recipe} reads {len(names)} kinds of vectors; it must read one")
            if version.name in stores:
                cells.append(Cell(recipe, dataset.root, {names[0]: stores[version.name]}))
    return cells


def gather(
    study: ExchangeConfig, dataset: Dataset, measured: dict[str, dict[str, Any]], outcomes: list[Outcome]
) -> dict[str, Any]:
    """Versions with their metrics and gains, and the rate of every metric.

    A version of which a run failed is left out. Raises InputError where too few are left, or a base run failed.
    """
    figures = {(o.cell.recipe.name, o.cell.recipe.seed): figures_on_test(o.run) for o in outcomes if not o.error}
    seeds = list(study.seeds)
    whole = [v for v in study.versions if all((f"with_{v.name}", seed) in figures for seed in seeds)]
    if any(("id_only", seed) not in figures for seed in seeds) or len(whole) < LEAST:
        raise InputError(f"{len(whole)} versions have all their runs, {LEAST} are needed; see the failed cells")
    base = [figures["id_only", seed] for seed in seeds]
    versions = []
    for version in whole:
        mine = [figures[f"with_{version.name}", seed] for seed in seeds]
        versions.append({
            "name": version.name, "title": version.words, "shuffled": version.shuffle is not None,
            "metrics": measured[version.name],
            "gains": {m: [a[m] - b[m] for a, b in zip(mine, base, strict=True)] for m in METRICS},
            "categories": _by_category(mine, base),
        })  # fmt: skip
    return {
        "source": dataset.meta["source"],
        "dataset": dataset.fingerprint,
        "split": study.split,
        "rows": base[0]["rows"],
        "seeds": seeds,
        "id_only": {m: [b[m] for b in base] for m in METRICS},
        "versions": versions,
        "rates": {m: rate for m in TITLES if (rate := rates(m, versions)) is not None},
    }


def _by_category(mine: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, list[float]]:
    """AUC gains by category and seed, where the AUC means something."""
    found = {}
    for name in base[0]["slices"]:
        parts = [f["slices"].get(name, {}) for f in (*mine, *base)]
        if name.startswith(CATEGORY) and all(p.get("auc") is not None and not p.get("too_small") for p in parts):
            gains = [a["slices"][name]["auc"] - b["slices"][name]["auc"] for a, b in zip(mine, base, strict=True)]
            found[name.removeprefix(CATEGORY)] = gains
    return found


def rates(metric: str, versions: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The exchange rate of a metric in AUC and GAUC, without the shuffled versions too, and by category; None where too
    few versions have the metric."""
    able = [v for v in versions if metric in v["metrics"]]
    real = [v for v in able if not v["shuffled"]]
    if len(able) < LEAST or _flat(able, metric):
        return None
    found: dict[str, Any] = {m: exchange_rate(*_points(able, metric, m)) for m in METRICS}
    if LEAST <= len(real) < len(able) and not _flat(real, metric):
        found["without_shuffled"] = {m: exchange_rate(*_points(real, metric, m)) for m in METRICS}
    found["categories"] = {}
    shared = set.intersection(*(set(v["categories"]) & set(v["metrics"][metric]["categories"]) for v in able))
    for name in sorted(shared):
        x = np.array([v["metrics"][metric]["categories"][name] for v in able])
        if len(np.unique(x)) >= 3:
            rate = exchange_rate(x, np.array([v["categories"][name] for v in able]))
            found["categories"][name] = {key: rate[key] for key in ("slope", "low", "high")}
    return found


def _flat(versions: list[dict[str, Any]], metric: str) -> bool:
    return len({v["metrics"][metric]["value"] for v in versions}) < 3


def _points(versions: list[dict[str, Any]], metric: str, gain: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([v["metrics"][metric]["value"] for v in versions]), np.array([v["gains"][gain] for v in versions])
