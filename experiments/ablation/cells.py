"""The cells of a study: recipes made from the base, the mechanisms, modes, widths, twins and seeds."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import assign, parse_config, read_tree
from data.errors import InputError
from experiments.ablation.config import Mechanism, Study
from experiments.grid import Cell
from features.spec import VectorMode
from ranker.config import Recipe
from ranker.end_to_end import require_encoders


@dataclass(frozen=True)
class Variant:
    """One cell group: what the seeds repeat.

    Attributes:
        mechanism: its name. mode, dim: of the vectors; mode is None for a mechanism that reads none.
        shuffled: the twin whose vectors have changed places among the items.
    """

    mechanism: str
    mode: VectorMode | None = None
    dim: int | None = None
    shuffled: bool = False

    @property
    def name(self) -> str:
        """Name of the group's recipes, such as cube-frozen-64-shuffled."""
        parts = [self.mechanism]
        if self.mode is not None:
            parts += [self.mode, "all" if self.dim is None else str(self.dim)]
        return "-".join(parts + ["shuffled"] * self.shuffled)

    @property
    def twin(self) -> "Variant":
        """The same on shuffled vectors."""
        return Variant(self.mechanism, self.mode, self.dim, True)


class Recipes:
    """Makes recipes of variants.

    Raises InputError where a mechanism's changes do not give a recipe, or `id_only` reads vectors.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        """`folder`: where a relative `study.base` starts."""
        self.study, self.path = study, folder / study.base
        self.base = read_tree(self.path)
        self.plain = {m.name: self._changed(m, {}) for m in study.mechanisms}
        if self.reads_vectors(study.id_only):
            raise InputError(f"id_only: mechanism {study.id_only!r} reads vectors; name one that does not")

    def reads_vectors(self, mechanism: str) -> bool:
        """Whether the mechanism uses multimodal vectors."""
        return bool(self.plain[mechanism].features.vectors)

    def variants(self) -> list[Variant]:
        """The study's cell groups, id_only first, each followed by its shuffled twin; every one once."""
        return list(self.repetitions())

    def repetitions(self) -> dict[Variant, int]:
        """How many of the study's seeds each cell group gets, the most that a block asks for."""
        every = len(self.study.seeds)
        found = {Variant(self.study.id_only): every}
        for block in self.study.matrix:
            for name in block.mechanisms or [m.name for m in self.study.mechanisms]:
                reads = self.reads_vectors(name)
                plain = [Variant(name, mode, dim) for mode in block.modes for dim in block.dims]
                for variant in plain if reads else [Variant(name)]:
                    for one in (variant, variant.twin) if reads else (variant,):
                        found[one] = max(found.get(one, 0), block.seeds or every)
        return found

    def recipe(
        self, variant: Variant, seed: int, settings: dict[str, Any] | None = None, name: str | None = None
    ) -> Recipe:
        """The recipe of one cell. `settings`: tuned fields by dotted path. `name`: None: the variant's.

        The permutation of a shuffled twin goes by the seed, so that its mean is over permutations too.
        """
        mechanism = self.study.mechanism(variant.mechanism)
        changes: dict[str, Any] = {"name": name or variant.name, "seed": seed}
        for vectors in self.plain[variant.mechanism].features.vectors:
            at = f"features.vectors.{vectors.name}"
            changes |= {f"{at}.mode": variant.mode, f"{at}.dim": variant.dim}
            if variant.shuffled:
                changes[f"{at}.shuffle"] = seed
        return self._changed(mechanism, (settings or {}) | changes)

    def values(self, mechanism: str, paths: Iterable[str]) -> dict[str, Any]:
        """What the mechanism's recipe has at dotted paths before any tuning.

        Raises InputError for a path that no field has.
        """
        found = {}
        for path in paths:
            node: Any = self.plain[mechanism].model_dump(mode="json")
            for part in path.split("."):
                if not isinstance(node, dict) or part not in node:
                    raise InputError(f"tuning.space: the recipe of mechanism {mechanism!r} has no field {path!r}")
                node = node[part]
            found[path] = node
        return found

    def _changed(self, mechanism: Mechanism, changes: dict[str, Any]) -> Recipe:
        tree = deepcopy(self.base)
        for path, value in (mechanism.set | changes).items():
            assign(tree, path, deepcopy(value))
        return parse_config(tree, Recipe, f"{self.path} as changed by mechanism {mechanism.name!r}")


def cells(
    recipes: Recipes,
    variants: Sequence[Variant],
    settings: dict[str, dict[str, Any]],
    data: Path,
    stores: dict[str, Path],
    encoders: dict[str, Path] | None = None,
    cache: Path | None = None,
) -> list[Cell]:
    """One cell a variant and seed, seeds outermost, so that a grid cut short has whole comparisons.

    `settings`: tuned fields by mechanism. `stores`, `encoders` (of end_to_end vectors): by the name of the vectors.
    `cache`: folder for what the encoders' frozen parts make of items, once for all cells.
    Raises InputError for vectors whose store is not given, or end_to_end ones whose encoder is not.
    """
    encoders = encoders or {}
    found, repetitions = [], recipes.repetitions()
    for number, seed in enumerate(recipes.study.seeds):
        for variant in (v for v in variants if number < repetitions[v]):
            recipe = recipes.recipe(variant, seed, settings.get(variant.mechanism))
            trained = {v.name for v in recipe.features.vectors if v.mode == "end_to_end"}
            own = {name: folder for name, folder in encoders.items() if name in trained}
            found.append(Cell(recipe, data, needed(recipe, stores), own, cache if own else None))
    wanted = {v.name for c in found for v in c.recipe.features.vectors if v.mode == "end_to_end"}
    require_encoders(sorted(wanted), encoders)
    return found


def needed(recipe: Recipe, stores: dict[str, Path]) -> dict[str, Path]:
    """The stores that a recipe reads.

    Raises InputError for one that is not given.
    """
    for vectors in recipe.features.vectors:
        if vectors.name not in stores:
            raise InputError(
                f"recipe {recipe.name!r} reads vectors {vectors.name!r}; give their store with "
                f"--store {vectors.name}=DIR"
            )
    return {v.name: stores[v.name] for v in recipe.features.vectors}
