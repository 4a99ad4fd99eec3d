"""Queries of a recall task for people to look at: the hardest, and some drawn by chance."""

from dataclasses import dataclass

import numpy as np

from moon_encoder.embed_parts import device
from moon_encoder.forms import Contents
from moon_encoder.recall_tasks import Task
from moon_encoder.search import Picked, Vectors, neighbours

SHOWN_HARDEST, SHOWN_DRAWN, NEIGHBOURS = 40, 40, 8


@dataclass(frozen=True)
class Example:
    """One query for people to look at.

    Attributes:
        query: number in the task. first: rank of the best right item, 0 for none.
        near, cosines: the nearest items and their cosines. right: which of them are right.
        example: a right item, and its cosine.
    """

    query: int
    first: int
    near: list[int]
    cosines: list[float]
    right: list[bool]
    example: int
    example_cosine: float


@dataclass(frozen=True)
class Examples:
    """Queries of one task to look at, hardest first: the hardest of all, and some drawn by chance."""

    task: Task
    contents: Contents
    hardest: list[Example]
    drawn: list[Example]


def _chosen(first: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The hardest queries among those whose right item has a vector, and some of all drawn by chance; hardest first."""
    depth = np.where(first == 0, size + 1, first)
    hardest = np.argsort(-first, kind="stable")[: min(SHOWN_HARDEST, int((first > 0).sum()))]
    drawn = np.random.default_rng(1).permutation(len(first))[:SHOWN_DRAWN]
    return hardest, drawn[np.argsort(-depth[drawn], kind="stable")]


def examples_of(
    task: Task,
    contents: Contents,
    asked: np.ndarray,
    first: np.ndarray,
    query: Vectors,
    gallery: Vectors,
    own: np.ndarray | None,
) -> Examples:
    """asked: (q,) numbers of the queries that were asked; first: (q,) their ranks; query: vectors of all queries."""
    chosen = _chosen(first, int(gallery.present.sum()))
    hardest, drawn = (_examples(task, asked, rows, first, query, gallery, own) for rows in chosen)
    return Examples(task, contents, hardest, drawn)


def _examples(
    task: Task,
    asked: np.ndarray,
    rows: np.ndarray,
    first: np.ndarray,
    query: Vectors,
    gallery: Vectors,
    own: np.ndarray | None,
) -> list[Example]:
    """`rows`: places among the asked queries."""
    picked = Picked(query, asked[rows])
    near, cosines = neighbours(picked, gallery, NEIGHBOURS, None if own is None else own[rows], device())
    vectors = picked.take(np.arange(len(rows)))
    found = []
    for place, row in enumerate(rows):
        right = task.right.mask(asked[[row]], 0, len(gallery))[0].numpy() & gallery.present
        if own is not None and own[row] >= 0:
            right[own[row]] = False
        there = near[place] >= 0
        items = np.flatnonzero(right)
        example, cosine = int(task.example[asked[row]]), float("nan")
        if len(items):
            scores = (gallery.take(items).to(vectors.device) @ vectors[place]).cpu().numpy()
            example, cosine = int(items[scores.argmax()]), float(scores.max())
        found.append(
            Example(
                int(asked[row]),
                int(first[row]),
                near[place][there].tolist(),
                cosines[place][there].tolist(),
                right[near[place][there]].tolist(),
                example,
                cosine,
            )
        )
    return found
