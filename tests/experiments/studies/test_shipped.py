"""The shipped studies: every file that they name is there and every change of it gives a valid configuration."""

from pathlib import Path

import pytest

from data.config import load_config, parse_config
from data.marketplace.config import Market
from experiments.lift.shares import SharesConfig, recipes
from experiments.studies.exchange_rate import ExchangeConfig
from experiments.studies.iterations import IterationsConfig
from experiments.studies.scaling import ScalingConfig
from experiments.studies.versions import VersionConfig
from moon_encoder.initial import NewEncoder
from moon_encoder.posttrain_config import Posttrain
from moon_encoder.pretrain_config import Pretrain
from ranker.config import Recipe

STUDIES = Path(__file__).parents[3] / "experiments" / "studies"


def check(version: VersionConfig) -> None:
    """Its encoder and its post-trainings."""
    if version.init is not None:
        load_config(STUDIES / version.init, NewEncoder, version.init_set)
    if version.pretrain is not None:
        load_config(STUDIES / version.pretrain, Pretrain, version.init_set)
    for stage in version.stages:
        load_config(STUDIES / stage.config, Posttrain, stage.set)


@pytest.mark.parametrize("data", ["marketplace", "movielens"])
def test_exchange_rate(data: str):
    study = load_config(STUDIES / f"exchange_{data}.yaml", ExchangeConfig)
    assert len(study.versions) >= 5 and len(study.seeds) >= 3 and any(v.shuffle for v in study.versions)
    parse_config(study.world, Market, "world")
    for version in study.versions:
        check(version)
    assert not load_config(STUDIES / study.id_only, Recipe, study.set).features.vectors
    assert len(load_config(STUDIES / study.recipe, Recipe, study.set).features.vectors) == 1


@pytest.mark.parametrize(
    ("data", "axes"),
    [
        ("marketplace", {"pairs", "batch", "queue", "hard", "width", "depth", "size", "behaviours"}),
        ("movielens", {"behaviours"}),
    ],
)
def test_scaling(data: str, axes: set[str]):
    study = load_config(STUDIES / f"scaling_{data}.yaml", ScalingConfig)
    assert axes == {axis.name for axis in study.axes}
    parse_config(study.world, Market, "world")
    for axis in study.axes:
        for x in axis.values:
            own, of_init = ([w.replace("{x}", f"{x:g}") for w in words] for words in (axis.set, axis.init_set))
            if axis.of == "encoder":
                load_config(STUDIES / study.posttrain, Posttrain, own)
                start = (axis.pretrain, Pretrain) if axis.pretrain else (axis.init or study.init, NewEncoder)
                load_config(STUDIES / start[0], start[1], of_init)
            else:
                load_config(STUDIES / study.recipe, Recipe, [*study.recipe_set, *own])


def test_iterations_move_on_every_axis():
    names = ("iterations_marketplace", "iterations_order_marketplace")
    studies = [load_config(STUDIES / f"{name}.yaml", IterationsConfig) for name in names]
    assert {step.axis for study in studies for step in study.steps} == {"data", "training", "model", "application"}
    assert studies[0].world == studies[1].world and all(study.twins for study in studies)


@pytest.mark.parametrize("name", ["iterations_marketplace", "iterations_order_marketplace"])
def test_iterations(name: str):
    study = load_config(STUDIES / f"{name}.yaml", IterationsConfig)
    assert parse_config(study.world, Market, "world").later_days >= study.days
    for version in study.versions:
        check(version)
    for step in study.steps:
        assert len(load_config(STUDIES / step.recipe, Recipe, [*study.set, *step.set]).features.vectors) == 1


@pytest.mark.parametrize("name", ["lift", "lift_arms", "lift_queries"])
def test_lift(name: str):
    study = load_config(STUDIES / f"{name}.yaml", SharesConfig, ["encoder=made"])
    assert {recipe.name for recipe in recipes(study, 1)} >= {"id_only", *study.arms}
    parse_config({"later_days": study.days} | study.world, Market, "world")
