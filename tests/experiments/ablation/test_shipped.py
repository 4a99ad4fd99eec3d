"""The shipped study: every cell is a valid recipe, every mechanism with vectors has its shuffled twin."""

from pathlib import Path

from data.config import load_config
from experiments.ablation.cells import Recipes
from experiments.ablation.config import Study

CONFIGS = Path(__file__).parents[3] / "experiments" / "configs"


def test_every_cell_of_the_shipped_study_is_a_recipe_and_has_its_twin():
    study = load_config(CONFIGS / "movielens_ablation.yaml", Study)
    recipes = Recipes(study, CONFIGS)
    variants = recipes.variants()
    assert {v.mechanism for v in variants} == {m.name for m in study.mechanisms}
    for variant in variants:
        recipe = recipes.recipe(variant, 3)
        assert all((v.shuffle == 3) == variant.shuffled for v in recipe.features.vectors)
        assert bool(recipe.features.vectors) == (variant.mode is not None)
        assert variant.mode is None or variant.twin in variants
