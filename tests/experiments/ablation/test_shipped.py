"""The shipped studies: every cell is a valid recipe, every mechanism with vectors has its shuffled twin."""

from pathlib import Path

import pytest

from data.config import load_config
from experiments.ablation.cells import Recipes
from experiments.ablation.config import Study
from ranker.config import Recipe

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


def test_the_recipe_that_users_run_is_the_one_that_was_measured():
    study = load_config(CONFIGS / "movielens_signed_ablation.yaml", Study)
    measured = Recipes(study, CONFIGS).plain["crosses_signed"]
    own = load_config(CONFIGS / "movielens_signed.yaml", Recipe)
    assert measured.model_copy(update={"name": own.name}) == own
