"""The mechanisms that are held against each other on long histories, as recipes of one trunk."""

from typing import Any

from ranker.config import Recipe

VECTORS, SEQUENCE, TOP = "drawn", "rated", 50
DIN = {"kind": "din", "hidden": [64], "softmax": True}
SIMTIER = {"kind": "simtier", "vectors": VECTORS, "sequence": SEQUENCE}
CUBE = {"kind": "cube", "vectors": VECTORS, "sequences": [SEQUENCE]}


def _searched(**search: Any) -> dict[str, Any]:
    return DIN | {"search": {"top": TOP, **search}}


# title: (the sequence's model, content mechanisms)
MECHANISMS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "mean pooling": ({"kind": "mean"}, []),
    "mean pooling and CUBE": ({"kind": "mean"}, [CUBE]),
    "DIN": (DIN, []),
    "DIN and CUBE": (DIN, [CUBE]),
    "DIN and SimTier": (DIN, [SIMTIER]),
    "SA-TA over the cosine top 50": (_searched(kind="cosine", vectors=VECTORS) | {"similarity_attention": VECTORS}, []),
    "SIM soft, top 50": (_searched(kind="inner"), []),
    "SIM hard, last 50": (_searched(kind="category", category="year"), []),
    "ETA, top 50": (_searched(kind="simhash"), []),
}


def recipe(name: str, length: int) -> Recipe:
    """The recipe of a mechanism over the last `length` behaviours."""
    model, content = MECHANISMS[name]
    reads = bool(content) or VECTORS in str(model)
    sequence = {"name": SEQUENCE, "length": length, "fields": ["item"], "numbers": ["same.year"]}
    features: dict[str, Any] = {
        "features": [{"kind": "id", "name": n, "column": c} for n, c in COLUMNS.items()],
        "sequences": [sequence],
        "vectors": [{"name": VECTORS}] if reads else [],
    }
    tree = {
        "name": "histories",
        "features": features,
        "model": {"sequences": {SEQUENCE: model}, "content": content, "tower": [64, 32]},
        "train": {"threads": 1},
    }
    return Recipe.model_validate(tree)


COLUMNS = {"user": "user", "item": "item", "year": "item.year"}
