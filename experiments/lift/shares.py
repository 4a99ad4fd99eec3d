"""`moon study lift`: the lift of vectors against the share of click utility that only content explains.

Where pictures carry nothing, vectors must win nothing; the lift must rise with the share. One training differs from the
next by more than users differ, so every world is trained on by every arm and by the arm's twin, whose vectors have
changed places among the items; intervals are over worlds, each with its own training seed.

    OUT/seed-S/share-X/{logs,data,store*,queries*,runs/ARM/sS,lift}     finished worlds and runs are used again
    OUT/shares.{json,md,html}
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from data.config import Config, load_config, parse_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.host import keep_freed_memory
from data.images import TarImages
from data.marketplace.config import Market, world_of
from data.marketplace.photographed import SIDE, look_vectors, measure, read_photo
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular
from experiments.end_to_end import MoonEncoders
from experiments.grid import Cell, Grid, clock
from experiments.lift.command import run_test
from experiments.lift.config import ArmName, LiftConfig, RankerArm, Refresh
from experiments.lift.later_queries import add_later_queries
from experiments.lift.shares_report import CONTROL, TWIN, gather, markdown
from experiments.page import alone
from experiments.report.shares import shares_section
from features.ranks import Ranks, process_group
from features.store import Store
from features.store_writer import StoreWriter
from moon_encoder.checkpoint import encoder_info
from moon_encoder.embed_job import plan
from moon_encoder.embed_job import run as embed
from moon_encoder.embed_parts import Subject
from moon_encoder.embedding import BATCH
from moon_encoder.forms import Form
from moon_encoder.trained_on import catalogue_columns
from ranker.config import Recipe
from ranker.end_to_end import OpenEncoder
from ranker.metrics import gauc
from ranker.run_folder import RunFolder
from ranker.train import train

CONFIGS = Path(__file__).parents[1] / "configs"
DIM = 16


class StudyArm(Config):
    """A ranker of the study."""

    recipe: str = Field(description="a recipe of experiments/configs, without .yaml")
    set: tuple[str, ...] = Field((), description="changed fields of it, A.B=C")
    twin: bool = Field(True, description="train it on vectors that have changed places as well")


class SharesConfig(Config):
    """The study."""

    shares: tuple[float, ...] = Field((0.0, 0.15, 0.3, 0.45, 0.6), min_length=1, description="content shares")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="worlds; each is trained on with its own seed")
    more_seeds: dict[float, tuple[int, ...]] = Field(
        default_factory=dict, description="further worlds at some shares, where an interval should be narrow"
    )
    control: StudyArm = Field(
        StudyArm(recipe="marketplace_din", set=(), twin=False), description="the ranker without vectors"
    )
    arms: dict[ArmName, StudyArm] = Field(min_length=1, description="rankers with vectors, by name")
    train: tuple[str, ...] = Field((), description="changed fields of all recipes, A.B=C")
    days: int = Field(3, ge=1, description="days played after the logs")
    refresh: Refresh = Field(Refresh(), description="nightly work; none by default")  # pyright: ignore[reportCallIssue]
    world: dict[str, Any] = Field(default_factory=dict, description="further fields of the market")
    encoder: Path | None = Field(
        None, description="a trained encoder that gives the vectors; None: measures of the photos' pixels, whitened"
    )
    content: Form | None = Field(None, description="what the encoder is shown of an item; None: all that it reads")

    @model_validator(mode="after")
    def _worlds(self) -> "SharesConfig":
        for share, seeds in self.more_seeds.items():
            if share not in self.shares:
                raise ValueError(f"more_seeds.{share:g}: not one of the shares")
            if set(seeds) & set(self.seeds):
                raise ValueError(f"more_seeds.{share:g}: seed {min(set(seeds) & set(self.seeds))} is in seeds already")
        if CONTROL in self.arms:
            raise ValueError(f"arms.{CONTROL}: this is the control's name")
        return self

    def worlds(self) -> list[tuple[float, int]]:
        """(share, seed), seeds outermost, so that a study cut short has whole curves."""
        found = [(share, seed) for seed in self.seeds for share in self.shares]
        return found + [(share, seed) for share, seeds in self.more_seeds.items() for seed in seeds]


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon study lift", description="The lift of vectors against the content share.")
    parser.add_argument("config", type=Path, help="the study (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the worlds and of the report")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the study")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    keep_freed_memory()
    config = load_config(args.config, SharesConfig, args.set)
    recipes(config, 0)  # a recipe that cannot be played is told before a world is made
    worlds: dict[tuple[float, int], dict[str, Any]] = {}
    started, todo = time.monotonic(), config.worlds()
    with process_group() as ranks:
        for number, (share, seed) in enumerate(todo):
            print(
                f"study: world {number + 1} of {len(todo)}, share {share:g}, seed {seed}", file=sys.stderr, flush=True
            )
            worlds[share, seed] = _world(config, share, seed, args.out, ranks)
            found = gather(config.shares, [*config.arms], worlds)  # after every world: a report so far
            write_json(args.out / "shares.json", found)
            write_text(args.out / "shares.md", markdown(found))
            write_text(args.out / "shares.html", alone(shares_section(found)))
            spent = time.monotonic() - started
            left = clock(spent / (number + 1) * (len(todo) - number - 1))
            print(f"study: {clock(spent)} so far, about {left} left", file=sys.stderr, flush=True)
    print((args.out / "shares.md").read_text())
    print(f"{args.out / 'shares.html'}: the report with plots")
    if args.json:
        write_json(args.json, json.loads((args.out / "shares.json").read_text()))
    return 0


def _world(config: SharesConfig, share: float, seed: int, out: Path, ranks: Ranks) -> dict[str, Any]:
    """The figures of one world's test, with each run's own on its test rows."""
    root = out / f"seed-{seed}" / f"share-{share:g}"
    fields = {"later_days": config.days} | config.world | {"seed": seed, "content_share": share}
    logs, data = root / "logs", root / "data"
    if not logs.is_dir():
        simulate(parse_config(fields, Market, "world"), logs)
    if not (data / "dataset.json").is_file():
        prepare(Tabular(logs, logs / "columns.yaml"), data)
    dataset = Dataset(data)
    made = recipes(config, seed)
    read: set[Subject] = {vectors.of for one in made for vectors in one.features.vectors}
    stores = {of: _store(config, dataset, root, of) for of in read}
    cells = [Cell(one, data, {v.name: stores[v.of] for v in one.features.vectors}) for one in made]
    grid = Grid(root / "runs", cells)
    for one in cells:
        if not grid.finished(one):
            encoders = _openers(config, one.recipe, dataset)
            train(one.recipe, dataset, grid.folder(one).root, ranks, True, one.stores, encoders)
    runs = {one.recipe.name: grid.folder(one) for one in cells}
    test = LiftConfig(  # pyright: ignore[reportCallIssue]
        logs=logs,
        data=data,
        arms={name: RankerArm(run=run.root) for name, run in runs.items()},
        control=CONTROL,
        refresh=config.refresh,
        days=config.days,
        aa_replays=0,
    )
    found = run_test(test, root / "lift", ranks)
    for name, run in runs.items():
        found["arms"][name]["offline"] = _offline(run, dataset)
    return found


def _openers(config: SharesConfig, recipe: Recipe, dataset: Dataset) -> dict[str, OpenEncoder]:
    """What gives the encoder of the recipe's end_to_end vectors, by name; each run starts from the study's own."""
    names = [vectors.name for vectors in recipe.features.vectors if vectors.mode == "end_to_end"]
    if config.encoder is None:
        return {}
    folder, room = config.encoder, MoonEncoders()
    return {name: lambda source: room.open(folder, source, dataset) for name in names}


def _store(config: SharesConfig, dataset: Dataset, root: Path, of: Subject) -> Path:
    """The world's vectors of items or of queries, made if they are not there yet."""
    if config.encoder is None:
        pixel_store(dataset, root / "store")
        return root / "store"
    info = encoder_info(config.encoder)
    store = root / f"{'store' if of == 'items' else of}-{info.fingerprint[:12]}"
    if not any(store.glob("v*")):
        columns = catalogue_columns(info)
        embed(plan(config.encoder, dataset, config.content, columns, None, "float16", BATCH, of), store, 1, resume=True)
    if of == "queries":
        add_later_queries(store, config.encoder, world_of(root / "logs"))
    return store


def _offline(run: RunFolder, dataset: Dataset) -> dict[str, float]:
    """AUC and GAUC of the test rows by user, as in the run's own figures, and GAUC within a search: an online ranking
    compares candidates of one search, never those of two."""
    found = json.loads(run.metrics("test").read_text())
    rows = run.read_predictions("test")
    search = dataset.samples("test").select("request_id").collect()["request_id"].to_numpy()
    within = gauc(rows["label"].to_numpy(), rows["score"].to_numpy(), search)
    return {"auc": found["auc"], "gauc": found["gauc"], "gauc_search": within.value}


def recipes(config: SharesConfig, seed: int) -> list[Recipe]:
    """The recipes of a world: the control, every arm, and the arms' twins.

    Raises InputError for a change that gives no recipe, and for an arm that cannot be trained or played here.
    """
    found = []
    for name, arm in {CONTROL: config.control, **config.arms}.items():
        changes = [*config.train, *arm.set, f"seed={seed}", "train.threads=1"]
        path = CONFIGS / f"{arm.recipe}.yaml"
        found.append(load_config(path, Recipe, [*changes, f"name={name}"]))
        _require_playable(name, found[-1], config.encoder)
        if arm.twin:
            places = [f"features.vectors.{v.name}.shuffle={seed}" for v in found[-1].features.vectors]
            found.append(load_config(path, Recipe, [*changes, *places, f"name={name}{TWIN}"]))
    return found


def _require_playable(name: str, recipe: Recipe, encoder: Path | None) -> None:
    if encoder is not None:
        return
    for vectors in recipe.features.vectors:
        if vectors.of == "queries":
            raise InputError(
                f"arms.{name}: vectors {vectors.name!r} are of queries; give the study an encoder that reads them "
                "(encoder: DIR)"
            )
        if vectors.mode == "end_to_end":
            raise InputError(
                f"arms.{name}: vectors {vectors.name!r} are end_to_end; give the study an encoder to start from "
                "(encoder: DIR), or another mode"
            )


def pixel_store(dataset: Dataset, root: Path) -> None:
    """A store of what the items' photos measure (colour, brightness, texture, outline), if there is none yet."""
    if root.is_dir() and any(root.glob("v*")):
        Store(root)
        return
    items = dataset.items().select("image_key", "category").collect()
    (spec,) = (s for s in dataset.meta["images"] if s["role"] == "item")
    tar = TarImages(Path(spec["path"]))
    measured = np.stack([measure(read_photo(tar, key, SIDE)) for key in items["image_key"]])
    category = items["category"].rank("dense").to_numpy()
    with StoreWriter(
        root, len(items), DIM, encoder="pixel-measures", dataset_fingerprint=dataset.fingerprint
    ) as writer:
        writer.put(np.arange(len(items)), look_vectors(measured, category, DIM))
        writer.publish()
