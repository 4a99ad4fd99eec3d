"""Every mechanism of the ranker as a recipe to export. A new mechanism is one more line in RECIPES."""

from typing import Any, get_args

from ranker.config import Mechanism, Recipe, SequenceModel
from tests.ranker.conftest import TINY

IMAGE = [{"name": "image"}]
CODED = [{"name": "image", "codes": {"levels": 2, "size": 4}}]
NUMBERED = {"sequences": [{**TINY["features"]["sequences"][0], "numbers": ["surprise", "action", "same.item"]}]}
SEARCHES = ({"kind": "cosine", "vectors": "image"}, {"kind": "inner"}, {"kind": "simhash", "bits": 8})


def _sequence(**config: Any) -> dict[str, Any]:
    return {"sequences": {"rated": config}}


def _content(*kinds: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"vectors": "image", **kind} for kind in kinds]}


# name: (changes of the model, changes of the features)
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "din": (_sequence(kind="din", hidden=[8, 4]), {}),
    "din-without-sides": (
        _sequence(kind="din", hidden=[8]),
        {"sequences": [{"name": "rated", "length": 20, "fields": ["item"]}]},
    ),
    "din-softmax-dice": (_sequence(kind="din", hidden=[8], softmax=True, activation="dice"), {}),
    "mha": (_sequence(kind="mha", heads=2, head_dim=4) | {"interaction": {"kind": "dcnv2", "layers": 2}}, {}),
    "hstu": (
        _sequence(kind="hstu", heads=2, head_dim=4, layers=2, positions=8, similarity_attention="image"),
        {"vectors": IMAGE, "sequences": [{**TINY["features"]["sequences"][0], "numbers": ["age"]}]},
    ),
    "mean": (_sequence(kind="mean") | {"layer_norm": True, "activation": "prelu"}, {}),
    "concat": (_content({"kind": "concat"}), {"vectors": IMAGE}),
    "projected": (_content({"kind": "concat"}), {"vectors": [{"name": "image", "mode": "projected"}]}),
    "finetuned": (_content({"kind": "concat"}), {"vectors": [{"name": "image", "mode": "finetuned"}]}),
    "quality": (_content({"kind": "quality", "hidden": [4]}), {"vectors": IMAGE}),
    "simtier": (
        _content({"kind": "simtier", "sequence": "rated", "split_by": "action"}),
        {"vectors": IMAGE} | NUMBERED,
    ),
    "cube": (_content({"kind": "cube", "sequences": ["rated"]}), {"vectors": IMAGE}),
    "cube-sigmoid": (_content({"kind": "cube", "sequences": ["rated"], "weights": "sigmoid"}), {"vectors": IMAGE}),
    "cube-by-action": (
        _content({"kind": "cube", "sequences": ["rated"], "split_by": "action"}),
        {"vectors": IMAGE} | NUMBERED,
    ),
    "residual": (_content({"kind": "residual", "sequence": "rated"}), {"vectors": IMAGE} | NUMBERED),
    "semantic-ids": (_content({"kind": "semantic_ids", "sequence": "rated"}), {"vectors": CODED}),
    "make": (_content({"kind": "make", "sequence": "rated", "numbers": ["surprise"]}), {"vectors": IMAGE} | NUMBERED),
    "sa-ta": (_sequence(kind="din", hidden=[8], softmax=True, similarity_attention="image"), {"vectors": IMAGE}),
    "similarity-side": (_sequence(kind="mha", similarity_side={"vectors": "image", "dim": 4}), {"vectors": IMAGE}),
    "category-search": (_sequence(kind="mean", search={"kind": "category", "category": "item"}), NUMBERED),
    **{
        f"{search['kind']}-search": (
            _sequence(kind="din", hidden=[8], softmax=True, similarity_attention="image", search={**search, "top": 3}),
            {"vectors": IMAGE},
        )
        for search in SEARCHES
    },
}
# Every kind of content mechanism beside each other, and two sequences: one program to compile for all of them.
EVERYTHING = (
    {
        "sequences": {"rated": {"kind": "din", "hidden": [8], "softmax": True}, "again": {"kind": "mha", "heads": 2}},
        "content": list({c["kind"]: c for model, _ in RECIPES.values() for c in model.get("content", [])}.values()),
        "interaction": {"kind": "dcnv2", "layers": 1},
    },
    {
        "sequences": [*NUMBERED["sequences"], {"name": "again", "length": 5, "fields": ["item"]}],
        "vectors": [{**CODED[0], "mode": "projected"}],
    },
)


def recipe(model: dict[str, Any], features: dict[str, Any]) -> Recipe:
    """The tiny recipe with these changes."""
    return Recipe.model_validate(
        TINY | {"model": TINY["model"] | model, "features": TINY["features"] | features, "name": "export"}
    )


def kinds_in_the_code() -> set[str]:
    """Every `kind` that a recipe can ask for."""
    mechanisms = [m for part in get_args(Mechanism) or (Mechanism,) for m in (get_args(part) or (part,))]
    content = [m for m in mechanisms if hasattr(m, "model_fields")]
    found = set(get_args(SequenceModel.model_fields["kind"].annotation))
    return found | {k for m in content for k in get_args(m.model_fields["kind"].annotation)}


def kinds_in_the_recipes() -> set[str]:
    """Every `kind` that RECIPES has a line for."""
    models = [model for model, _ in RECIPES.values()]
    sequences = {config["kind"] for model in models for config in model.get("sequences", {}).values()}
    return sequences | {entry["kind"] for model in models for entry in model.get("content", [])}
