"""Fitting semantic ids (features/codebooks.py): on the vectors of items known in training alone.

The codebooks are part of the fitted encoder; an item that comes later gets its codes from its vector.
"""

from collections.abc import Iterator

import numpy as np

from data.dataset import Dataset
from data.errors import InputError
from data.progress import Progress
from features.codebooks import Codebooks
from features.histories import SeenInTraining
from features.spec import ItemVectors
from features.vector_source import MISSING, VectorSource

BATCH = 4096  # vectors of one k-means step, and those held at a time
STEPS = 60  # k-means steps a level, at least one pass


def fit_codebooks(spec: ItemVectors, source: VectorSource, dataset: Dataset) -> Codebooks:
    """The codebooks of one store: mini-batch k-means, a level after another, on what the levels before leave over.

    Deterministic by `spec.codes.seed`. Memory: BATCH vectors and the codebooks.
    Raises InputError if fewer vectors of items known in training are there than centroids.
    """
    assert spec.codes is not None
    rows = source.rows(known_in_training(dataset))
    rows = np.unique(rows[rows != MISSING])
    size, levels = spec.codes.size, spec.codes.levels
    if len(rows) < size:
        raise InputError(
            f"features.vectors {spec.name!r}: codes of {size} centroids need as many vectors; "
            f"{source.root} has {len(rows):,} of items known in training"
        )
    found = Codebooks(np.empty((0, size, source.dim), np.float32))
    progress = Progress(f"codes of {spec.name}", levels, "levels")
    for level in range(levels):
        centroids = _fit_level(_residuals(source, rows, found, (spec.codes.seed, level)), size, spec.codes.seed + level)
        found = Codebooks(np.concatenate([found.centroids_LKM, centroids[None]]))
        progress.add(1)
    progress.close()
    return found


def known_in_training(dataset: Dataset) -> np.ndarray:
    """Items (n,) int64 that some train sample shows or has in its history, ascending."""
    known = dataset.train_counts("item") > 0
    items = dataset.behaviors().item
    for at in SeenInTraining(dataset):
        known[items[at]] = True
    return np.flatnonzero(known)


def _residuals(source: VectorSource, rows: np.ndarray, found: Codebooks, seed: tuple[int, int]) -> Iterator[np.ndarray]:
    """Batches of what the levels so far leave over of the vectors, passes in a new order each, STEPS or more."""
    rng = np.random.default_rng(seed)
    batches = -(-len(rows) // BATCH)
    for _ in range(-(-STEPS // batches)):
        for part in np.array_split(rng.permutation(rows), batches):
            vectors = source.stored(np.sort(part))
            yield vectors - found.decode(found.encode(vectors)) if found.levels else vectors


def _fit_level(batches: Iterator[np.ndarray], size: int, seed: int) -> np.ndarray:
    """Centroids (K, M) float32."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    means = MiniBatchKMeans(size, random_state=seed, n_init=1, batch_size=BATCH)  # pyright: ignore[reportArgumentType]
    with threadpool_limits(1):  # the order of sums, and so the last bits, would depend on the threads
        for batch in batches:
            means.partial_fit(batch.astype(np.float32))
    return np.asarray(means.cluster_centers_, np.float32)
