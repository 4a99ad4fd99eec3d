"""`moon study ablation STUDY`: mechanisms x vector modes x prefixes, tuned alike, over seeds, against two twins.

A study may grow in its folder: what is finished stays, as long as base, tuning and the mechanisms are the same.

OUT/study.yaml, dataset-without-test/, tuning/, tuning.json, runs/, report.{json,md,html}, table.parquet
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_parquet, write_text
from data.host import git_commit, keep_freed_memory
from experiments.ablation.cells import Recipes, cells
from experiments.ablation.config import Study
from experiments.ablation.table import measure
from experiments.ablation.text import frame, markdown
from experiments.ablation.tuning import Tuner, blind_view, planned
from experiments.grid import Cell, Grid, Outcome, Shard, grid_flags, require_all_there
from experiments.page import alone
from experiments.report.ablations import ablation_section
from features.store import Store
from ranker.versions import installed


def main(argv: list[str]) -> int:
    """The command. Returns 1 if a cell failed (the others are in the report)."""
    parser = argparse.ArgumentParser("moon study ablation", description="Which mechanism is worth what, measured.")
    parser.add_argument("study", type=Path, help="study (YAML)")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--store", action="append", default=[], metavar="NAME=DIR", help="representation store")
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="NAME=DIR", help="encoder that end_to_end vectors start from"
    )
    parser.add_argument(
        "--cache", type=Path, help="folder for what its frozen part makes of items (default: OUT/frozen)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; what is finished there stays")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the study")
    grid_flags(parser, jobs=1)
    parser.add_argument("--dry-run", action="store_true", help="print the grid and the time it takes; train nothing")
    parser.add_argument("--json", type=Path, help="write the report's figures here as well")
    args = parser.parse_args(argv)
    keep_freed_memory()
    study = load_config(args.study, Study, args.set)
    stores, encoders = named_stores(args.store), named("--encoder", args.encoder)
    recipes, cache = Recipes(study, args.study.parent), args.cache or args.out / "frozen"
    work = Ablation(study, recipes, args.data, stores, args.out, encoders, cache)
    if args.dry_run:
        print(work.describe(args.jobs))
        return 0
    report, outcomes = work.run(args.jobs, Shard.parse(args.shard))
    print(markdown(report))
    if args.json:
        write_json(args.json, report)
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        print(f"moon study ablation: {outcome.cell.name} failed: {outcome.error}", file=sys.stderr)
    return 1 if failed else 0


class Ablation:
    """One study in its folder."""

    def __init__(
        self,
        study: Study,
        recipes: Recipes,
        data: Path,
        stores: dict[str, Path],
        out: Path,
        encoders: dict[str, Path],
        cache: Path,
    ) -> None:
        """Raises InputError if `out` holds another study, or a store or an encoder is missing."""
        self.study, self.recipes, self.data, self.stores, self.out = study, recipes, data, stores, out
        self.encoders, self.cache = encoders, cache
        self.encoder_names = [f"{name}: {_encoder_name(folder)}" for name, folder in encoders.items()]
        self.dataset = Dataset(data)
        self.variants = recipes.variants()
        self._cells({})  # every store is there, every recipe is valid
        path = out / "study.yaml"
        if path.is_file() and not study.goes_on_from(load_config(path, Study)):
            raise InputError(f"{path}: another study than this one; give another --out")

    def describe(self, jobs: int) -> str:
        """Tuning and grid with the time left."""
        speed, lines = self.study.rows_per_second, []
        if self.study.tuning:
            trials = planned(self.recipes, self.study.tuning, self.data, self.stores)
            lines += ["tuning", Grid(self.out / "tuning", trials, check=False).describe(jobs, speed)]
        grid = Grid(self.out / "runs", self._cells({}), check=False)
        return "\n".join([*lines, "runs", grid.describe(jobs, speed)])

    def run(self, jobs: int, shard: Shard) -> tuple[dict[str, Any], list[Outcome]]:
        """Tune, train what is not finished, measure, write the report.

        Raises InputError where another shard's cells are not finished; then there is no report yet.
        """
        plain = yaml.safe_dump(self.study.model_dump(mode="json"), sort_keys=False)
        write_text(self.out / "study.yaml", plain)
        found: dict[str, dict[str, Any]] = {}
        if self.study.tuning:
            blind = blind_view(self.dataset, self.out / "dataset-without-test")
            found = Tuner(self.recipes, self.study.tuning, blind, self.stores, self.out / "tuning").run(jobs, shard)
            write_json(self.out / "tuning.json", found)
        settings = {name: tuned["settings"] for name, tuned in found.items()}
        outcomes = Grid(self.out / "runs", self._cells(settings)).run(jobs, shard)
        require_all_there(outcomes)
        report = self._report(measure(self.study, self.variants, outcomes), found)
        write_json(self.out / "report.json", report)
        write_text(self.out / "report.md", markdown(report))
        write_text(self.out / "report.html", alone(ablation_section(report)))
        write_parquet(self.out / "table.parquet", frame(report["groups"], report["slices"]))
        return report, outcomes

    def _cells(self, settings: dict[str, dict[str, Any]]) -> list[Cell]:
        return cells(self.recipes, self.variants, settings, self.data, self.stores, self.encoders, self.cache)

    def _report(self, groups: list[dict[str, Any]], tuned: dict[str, dict[str, Any]]) -> dict[str, Any]:
        study, tuning = self.study, self.study.tuning
        return {
            "study": study.name,
            "source": self.dataset.meta["source"],
            "dataset": self.dataset.fingerprint,
            "split": "test",
            "rows": self.dataset.meta["counts"]["test"],
            "seeds": list(study.seeds),
            "draws": study.draws,
            "slices": list(study.slices),
            "id_only": study.id_only,
            "tuning": tuning
            and {"trials": tuning.trials, "metric": tuning.metric, "space": list(tuning.space), "found": tuned},
            "facts": self._facts(),
            "groups": groups,
        }

    def _facts(self) -> dict[str, Any]:
        stores = {name: Store(path).current.meta for name, path in self.stores.items()}
        vectors = [
            f"{name}: {m['encoder']}, {m['dim']} dims, {m['coverage']:.1%} of items" for name, m in stores.items()
        ]
        return {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": ", ".join(f"{name} {number}" for name, number in installed().items()),
            "commit": git_commit(),
            "vectors": "; ".join(vectors) or "none",
        } | ({"encoders trained end to end": "; ".join(self.encoder_names)} if self.encoders else {})


def _encoder_name(folder: Path) -> str:
    """What stores call the encoder. Raises InputError where there is none."""
    from moon_encoder.checkpoint import encoder_info  # slow to import, and few studies need it
    from moon_encoder.embed_job import encoder_name

    return encoder_name(encoder_info(folder))


def named_stores(words: Sequence[str]) -> dict[str, Path]:
    """Stores by name from the words of `--store`. Raises InputError as `named`, or for a folder that is no store."""
    return {name: Store(folder).root for name, folder in named("--store", words).items()}


def named(option: str, words: Sequence[str]) -> dict[str, Path]:
    """Folders by name from the words NAME=DIR of an option.

    Raises InputError for a word without a name, or a name given twice.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name:
            raise InputError(f"{option} {word}: give NAME=DIR, the name that the mechanisms' vectors have")
        if name in found:
            raise InputError(f"{option} {word}: {name!r} is given twice")
        found[name] = Path(folder)
    return found
