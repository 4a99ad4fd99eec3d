"""The shipped studies: every cell is a valid recipe, every mechanism with vectors has its shuffled twin."""

from pathlib import Path

import pytest

from data.config import load_config
from experiments.ablation.cells import Recipes, cells
from experiments.ablation.config import Study
from ranker.config import Recipe
from tests.experiments.ablation.conftest import STUDY, write_study

CONFIGS = Path(__file__).parents[3] / "experiments" / "configs"


@pytest.mark.parametrize("name", ["movielens_ablation", "movielens_signed_ablation"])
def test_every_cell_of_a_shipped_study_is_a_recipe_and_has_its_twin(name):
    study = load_config(CONFIGS / f"{name}.yaml", Study)
    recipes = Recipes(study, CONFIGS)
    variants = recipes.variants()
    assert {v.mechanism for v in variants} == {m.name for m in study.mechanisms}
    for variant in variants:
        recipe = recipes.recipe(variant, 3)
        assert all((v.shuffle == 3) == variant.shuffled for v in recipe.features.vectors)
        assert bool(recipe.features.vectors) == (variant.mode is not None)
        assert variant.mode is None or variant.twin in variants


def test_a_block_may_ask_for_fewer_seeds_and_a_group_gets_the_most_that_is_asked_for(tmp_path):
    matrix = [{"dims": [4], "seeds": 1}, {"mechanisms": ["concat"], "dims": [4, 2], "seeds": 2}]
    study = load_config(write_study(tmp_path, matrix=matrix, seeds=[5, 6, 7]), Study)
    recipes = Recipes(study, tmp_path)
    names = [cell.name for cell in cells(recipes, recipes.variants(), {}, tmp_path, {"image": tmp_path})]
    twins = [f"concat-frozen-{dim}{twin}" for dim in (4, 2) for twin in ("", "-shuffled")]
    assert names == [f"{n}/s{seed}" for seed in (5, 6) for n in ["din", *twins]] + ["din/s7"]


def test_the_recipe_that_users_run_is_the_one_that_was_measured():
    study = load_config(CONFIGS / "movielens_signed_ablation.yaml", Study)
    measured = Recipes(study, CONFIGS).plain["crosses_signed"]
    own = load_config(CONFIGS / "movielens_signed.yaml", Recipe)
    assert measured.model_copy(update={"name": own.name}) == own


def test_a_study_goes_on_from_one_with_the_same_base_tuning_and_mechanisms(tmp_path):
    def study(**changes):
        return load_config(write_study(tmp_path, **changes), Study)

    din, concat = STUDY["mechanisms"]
    for more in ({"seeds": [4, 5]}, {"matrix": [{"dims": [8]}]}, {"mechanisms": [din | {"title": "Other"}, concat]}):
        assert study(**more).goes_on_from(study()) and study().goes_on_from(study(**more))
    for other in ({"base": "other.yaml"}, {"tuning": None}, {"mechanisms": [din, concat | {"set": {}}]}):
        assert not study(**other).goes_on_from(study())
