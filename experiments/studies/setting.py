"""What the studies have in common: a world or a dataset, runs of changed recipes, and a folder of findings.

OUT/study.yaml  logs/ data/ (of a simulated world)  versions/  runs/  findings.json  report.html  report.json
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field

from data.config import Config, load_config, parse_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.host import git_commit, keep_freed_memory
from data.marketplace.config import Market
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular
from experiments.grid import Outcome, Shard, grid_flags, require_all_there
from experiments.page import Section
from experiments.report.command import write_page
from experiments.report.studies import with_failed
from moon_encoder.run import Interrupted
from ranker.run_folder import RunFolder
from ranker.versions import installed


class StudyConfig(Config):
    """What every study has. Relative paths start at the study's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="heading of the report")
    world: dict[str, Any] = Field(default_factory=dict, description="fields of the simulated market")
    rich: tuple[str, ...] = Field(("category",), description="columns behind the title in an item's rich text")


S = TypeVar("S", bound=StudyConfig)
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """The command line of a study."""

    folder: Path
    out: Path
    data: Path | None
    jobs: int
    shard: Shard
    json: Path | None


def ask(name: str, told: str, kind: type[S], argv: list[str]) -> tuple[S, Asked]:
    """The study's configuration and what else was asked for.

    Raises InputError if --out holds another study.
    """
    parser = argparse.ArgumentParser(f"moon study {name}", description=told)
    parser.add_argument("study", type=Path, help="the study (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; what is finished there stays")
    parser.add_argument("--data", type=Path, help="prepared dataset (default: the study's world, simulated)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the study")
    parser.add_argument("--json", type=Path, help="write the findings here as well")
    grid_flags(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    study = load_config(args.study, kind, args.set)
    path, plain = args.out / "study.yaml", study.model_dump(mode="json")
    if path.is_file() and yaml.safe_load(path.read_text()) != plain:
        raise InputError(f"{path}: another study than this one; give another --out")
    write_text(path, yaml.safe_dump(plain, sort_keys=False))
    shard = Shard.parse(args.shard)
    return study, Asked(args.study.parent, args.out, args.data, args.jobs, shard, args.json)


def open_dataset(asked: Asked, world: dict[str, Any]) -> Dataset:
    """The dataset that was given, else that of the world, which is simulated and prepared once."""
    if asked.data is not None:
        return Dataset(asked.data)
    logs, data = asked.out / "logs", asked.out / "data"
    if not logs.is_dir():
        simulate(parse_config(world, Market, "world"), logs)
    if not (data / "dataset.json").is_file():
        prepare(Tabular(logs, logs / "columns.yaml"), data)
    return Dataset(data)


def facts() -> dict[str, str]:
    """Machine, packages and commit."""
    versions = ", ".join(f"{name} {number}" for name, number in installed().items())
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": versions,
        "commit": git_commit() or "–",
    }


def tried(what: str, make: Callable[[], T], failed: list[str]) -> T | None:
    """What `make` gives; where it fails, None, and the reason in one line on stderr and in `failed`.

    Raises KeyboardInterrupt where it was asked to stop (its state is saved).
    """
    try:
        return make()
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None
    except Exception as error:
        failed.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")
        print(f"moon study: {failed[-1]}", file=sys.stderr)
        return None


def require_done(outcomes: Sequence[Outcome]) -> list[str]:
    """The failed cells, told on stderr; empty if all are finished.

    Raises InputError where cells are another shard's and not finished: the last shard writes the report.
    """
    require_all_there(outcomes)
    failed = [f"{o.cell.name}: {o.error}" for o in outcomes if o.error]
    for line in failed:
        print(f"moon study: {line}", file=sys.stderr)
    return failed


def figures_on_test(run: RunFolder) -> dict[str, Any]:
    """metrics.json of a finished run."""
    return json.loads(run.metrics("test").read_text())


def finish(asked: Asked, name: str, settings: StudyConfig, findings: dict[str, Any], section: Section) -> int:
    """Write findings and page, print what was found; the exit status."""
    section = with_failed(section, findings.get("failed", []))
    found = {"study": name, "settings": settings.model_dump(mode="json"), "facts": facts(), "findings": findings}
    path = asked.out / "findings.json"
    if path.is_file():
        before = json.loads(path.read_text())
        if before["findings"] == json.loads(json.dumps(findings)):
            found["facts"] = before["facts"]  # of when they were found
    write_json(path, found)
    write_page(asked.out / "report.html", asked.out / "report.json", settings.name, [section])
    if asked.json:
        write_json(asked.json, found)
    for line in section.said:
        print(line.replace("*", ""))
    print(f"{asked.out / 'report.html'}: the report")
    return 1 if findings.get("failed") else 0
