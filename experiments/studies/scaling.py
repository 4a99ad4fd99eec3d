"""`moon study scaling STUDY --out DIR`: how far more pairs, negatives, behaviours and weights go.

An axis is a geometric grid of one quantity with everything else fixed; every point is trained with every seed. Encoder
axes are judged by search recall of the split, ranker axes by the test figures. `y = a - b x^-c` is fitted to each whose
first and last point differ by more than seeds do.

    OUT/points/AXIS/X/sS/   an encoder's run and point.json      OUT/runs/AXIS-X/sS/   a ranker's run
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from data.config import Config, load_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_parquet, write_text
from experiments.ablation.tuning import link_dataset
from experiments.grid import Cell, Grid
from experiments.report.scaling import scaling_section
from experiments.studies.measures import Measured
from experiments.studies.scaling_fit import scaling_law
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
from experiments.studies.versions import Maker, Stage, VersionConfig
from features.ranks import Ranks, process_group
from ranker.config import Recipe

ENCODER_FIGURES = ("image_search_hr@10", "image_search_mrr", "contrastive")
RANKER_FIGURES = ("auc", "gauc")


class Axis(Config):
    """One quantity on a grid."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(description="what grows, for the plot")
    of: Literal["encoder", "ranker"] = Field(description="what is trained")
    values: tuple[float, ...] = Field(min_length=4, description="ascending; about geometric")
    set: tuple[str, ...] = Field((), description="changed fields, A.B={x} with the value in place of {x}")
    init: Path | None = Field(None, description="encoder: YAML that its points start from; None: the study's")
    init_set: tuple[str, ...] = Field((), description="encoder: changed fields of its init or pretrain, the same way")
    pretrain: Path | None = Field(
        None,
        description="encoder: recipe of stage 1 of multimodal LLMs of several sizes; x is then their trained weights",
    )
    pairs: bool = Field(False, description="encoder: the value is the number of training pairs")

    @model_validator(mode="after")
    def _grows(self) -> "Axis":
        if list(self.values) != sorted(set(self.values)) or self.values[0] <= 0:
            raise ValueError(f"axis {self.name!r}: values must be positive and ascending")
        if self.of == "ranker" and (self.pairs or self.init or self.init_set or self.pretrain):
            raise ValueError(f"axis {self.name!r}: pairs, init, init_set and pretrain belong to encoders")
        if self.init and self.pretrain:
            raise ValueError(f"axis {self.name!r}: give init or pretrain")
        return self


class ScalingConfig(StudyConfig):
    """The study."""

    init: Path | None = Field(None, description="YAML of the encoder that an encoder axis' points start from")
    posttrain: Path | None = Field(None, description="its post-training")
    recipe: Path | None = Field(None, description="the ranker of ranker axes")
    recipe_set: tuple[str, ...] = Field((), description="changed fields of it")
    axes: tuple[Axis, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2)
    split: Literal["valid", "test"] = Field("test", description="of the searches that judge encoders")
    queries: int = Field(2000, ge=50, description="most searches, drawn")

    @model_validator(mode="after")
    def _given(self) -> "ScalingConfig":
        for axis in self.axes:
            needed = {"init": axis.pretrain or axis.init or self.init, "posttrain": self.posttrain}
            for field, value in (needed if axis.of == "encoder" else {"recipe": self.recipe}).items():
                if value is None:
                    raise ValueError(f"axis {axis.name!r} of {axis.of}s: give {field}")
        return self


def main(argv: list[str]) -> int:
    """The command. Returns 1 if a cell failed."""
    study, asked = ask("scaling", "How far more of everything goes.", ScalingConfig, argv)
    dataset = open_dataset(asked, study.world)
    points, lost = _encoders(study, asked, dataset)
    cells = [
        Cell(_recipe(study, asked.folder, axis, x, seed), dataset.root)
        for seed in study.seeds
        for axis in study.axes
        for x in (axis.values if axis.of == "ranker" else ())
    ]
    outcomes = Grid(asked.out / "runs", cells).run(asked.jobs, asked.shard)
    failed = lost + require_done(outcomes)
    for outcome in outcomes:
        if not outcome.error:
            figures = figures_on_test(outcome.run)
            points[outcome.cell.recipe.name, outcome.cell.recipe.seed] = {m: figures[m] for m in RANKER_FIGURES}
    findings = gather(study, dataset, points) | {"failed": failed}
    return finish(asked, "scaling", study, findings, scaling_section(findings))


def _name(axis: Axis, x: float) -> str:
    return f"{axis.name}-{x:g}"


def _filled(words: tuple[str, ...], x: float) -> list[str]:
    return [word.replace("{x}", f"{x:g}") for word in words]


def _recipe(study: ScalingConfig, folder: Path, axis: Axis, x: float, seed: int) -> Recipe:
    assert study.recipe is not None
    changes = [*study.recipe_set, *_filled(axis.set, x), f"seed={seed}", f"name={_name(axis, x)}"]
    return load_config(folder / study.recipe, Recipe, changes)


def _encoders(
    study: ScalingConfig, asked: Asked, dataset: Dataset
) -> tuple[dict[tuple[str, int], dict[str, float]], list[str]]:
    """Figures of every encoder's point, by name and seed, and what became of those that failed (PATH/point.failed);
    points that are finished are read."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    wanted = [
        (axis, x, seed) for seed in study.seeds for axis in study.axes if axis.of == "encoder" for x in axis.values
    ]
    places = [asked.out / "points" / axis.name / f"{x:g}" / f"s{seed}" / "point.json" for axis, x, seed in wanted]
    with process_group() as ranks:
        for place, (path, (axis, x, seed)) in enumerate(zip(places, wanted, strict=True)):
            if asked.shard.mine(place) and not path.is_file():
                failed: list[str] = []
                make = partial(_point, study, asked, dataset, ranks, axis, x, seed, path.parent)
                point = tried(f"{_name(axis, x)}/s{seed}", make, failed)
                if point is None:
                    write_text(path.with_suffix(".failed"), failed[0] + "\n")
                else:
                    write_json(path, point)
                    path.with_suffix(".failed").unlink(missing_ok=True)
    lost = [path.with_suffix(".failed").read_text().strip() for path in places if path.with_suffix(".failed").is_file()]
    done = [path.is_file() for path in places]
    if done.count(False) > len(lost):
        raise InputError(f"{done.count(False) - len(lost)} points are another shard's and not finished yet; call again")
    for path, (axis, x, seed) in zip(places, wanted, strict=True):
        if path.is_file():
            found[_name(axis, x), seed] = json.loads(path.read_text())
    return found, lost


def _point(
    study: ScalingConfig, asked: Asked, dataset: Dataset, ranks: Ranks, axis: Axis, x: float, seed: int, out: Path
) -> dict[str, float]:
    assert study.posttrain is not None
    stage = Stage(config=study.posttrain, set=tuple(_filled(axis.set, x)))
    version = VersionConfig(  # pyright: ignore[reportCallIssue]
        name="encoder",
        init=None if axis.pretrain else axis.init or study.init,
        pretrain=axis.pretrain,
        init_set=tuple(_filled(axis.init_set, x)),
        stages=(stage,),
        content="image",
    )
    data = fewer_pairs(dataset, asked.out / "data-pairs" / f"{x:g}-s{seed}", int(x), seed) if axis.pairs else dataset
    maker = Maker(data, out, asked.folder, ranks, study.split, study.queries, asked.out / "cache")
    questions = Measured.of(data, maker.contents, maker.searches, study.split, study.queries)
    measured = questions.measure(maker.make(version, seed))
    point = {name: measured[name]["value"] for name in ENCODER_FIGURES}
    if axis.pretrain:
        stage_1 = json.loads((maker.pretrained(version, seed) / "figures.json").read_text())
        point |= {"answers": -math.log(stage_1["test"]["perplexity"]), "weights": stage_1["trained_weights"]}
    return point


def fewer_pairs(dataset: Dataset, out: Path, count: int, seed: int) -> Dataset:
    """A view of the dataset whose training searches are `count` drawn ones; the same files otherwise.

    Raises InputError where there are fewer.
    """
    if not (out / "dataset.json").is_file():
        pairs = pl.read_parquet(dataset.root / "pairs" / "search.parquet").with_row_index("at")
        train = pairs.filter(pl.col("split") == "train", pl.col("query_image").is_not_null())
        if len(train) < count:
            raise InputError(f"{dataset.root}: {len(train):,} training picture searches; the axis asks for {count:,}")
        kept = train.sample(count, seed=seed)["at"]
        link_dataset(dataset, out, without=("pairs",))
        (out / "pairs").mkdir(exist_ok=True)
        rest = pairs.filter((pl.col("split") != "train") | pl.col("at").is_in(kept.implode())).drop("at")
        write_parquet(out / "pairs" / "search.parquet", rest)
        write_json(out / "dataset.json", dataset.meta)
    return Dataset(out)


def gather(study: ScalingConfig, dataset: Dataset, points: dict[tuple[str, int], dict[str, float]]) -> dict[str, Any]:
    """Rise and law of every axis and figure; seeds that lack a point of an axis do not count there."""
    axes = []
    for axis in study.axes:
        names = [_name(axis, x) for x in axis.values]
        seeds = [s for s in study.seeds if all((n, s) in points for n in names)]
        if len(seeds) < 2:
            raise InputError(f"axis {axis.name!r}: fewer than two seeds have all their points; see the failed cells")
        figures = ENCODER_FIGURES if axis.of == "encoder" else RANKER_FIGURES
        figures += ("answers",) if axis.pretrain else ()
        x = [points[name, seeds[0]]["weights"] for name in names] if axis.pretrain else list(axis.values)
        laws = {}
        for figure in figures:
            y = np.array([[points[name, seed][figure] for seed in seeds] for name in names])
            laws[figure] = {"y": y.tolist()} | scaling_law(np.array(x, float), y)
        axes.append({"name": axis.name, "title": axis.title, "x": x, "seeds": seeds, "laws": laws})
    return {"source": dataset.meta["source"], "dataset": dataset.fingerprint, "split": study.split, "axes": axes}
