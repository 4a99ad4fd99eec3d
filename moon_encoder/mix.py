"""The mix of pairs: kinds by query form and item form with their weights, and the order of batches.

A kind is "query form -> item form". Each batch is of one kind. The order depends on the seed alone and any batch of any
epoch can be asked for directly, so that a run resumes exactly where it stopped.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from data.config import Config
from data.errors import InputError
from moon_encoder.forms import Contents, Form
from moon_encoder.pairs import CoOccurrence, Pairs, Source, load_pairs, usable

SEARCHED: tuple[Source, ...] = ("search_text", "search_image", "given")
TOGETHER: tuple[Source, ...] = ("product", "co_engagement")


class Kind(Config):
    """Pairs of one query form and one item form."""

    query: Form = Field(description="form of the query; `text` of a product is its title")
    item: Form = Field(description="form of the item")
    weight: float = Field(gt=0, description="share of batches, relative to the other kinds that the dataset has")
    sources: tuple[Source, ...] | None = Field(
        None,
        description="where its pairs come from; None: searches and named pairs for a text or an image, behaviours that "
        "stand together for a product. `augmented` only if it is named here",
    )

    def takes(self) -> tuple[Source, ...]:
        """The sources of its pairs."""
        return self.sources or (SEARCHED if self.query in ("text", "image") else TOGETHER)

    @property
    def name(self) -> str:
        """query->item, with the word augmented if that is what the pairs are."""
        only = " (augmented)" if self.sources == ("augmented",) else ""
        return f"{self.query}->{self.item}{only}"


def _published(query: Form, item: Form, weight: float) -> Kind:
    return Kind(query=query, item=item, weight=weight)  # pyright: ignore[reportCallIssue]


# The weights of MOON Embedding's broad post-training (arXiv 2511.11305), over 2.6 billion pairs.
PUBLISHED_MIX: tuple[Kind, ...] = (
    _published("text", "rich", 0.2),
    _published("text", "image", 0.2),
    _published("text", "title+image", 0.2),
    _published("text", "rich+image", 0.5),
    _published("image", "image", 0.2),
    _published("image", "title+image", 0.5),
    _published("image", "rich+image", 0.2),
    _published("title+image", "title+image", 0.5),
    _published("rich+image", "rich+image", 0.1),
)


def load_sources(
    kinds: Sequence[Kind], contents: Contents, rule: CoOccurrence, seed: int, actions: tuple[str, ...] | None
) -> dict[Source, Pairs]:
    """The train pairs of every source that the kinds name; `actions`: of these only (pairs without an action stay)."""
    found: dict[Source, Pairs] = {}
    named: list[Source] = [source for kind in kinds for source in kind.takes()]
    for source in named:
        if source in found:
            continue
        pairs = load_pairs(source, contents, "train", rule, seed)
        if actions is not None:
            pairs = pairs[np.isin(pairs.action.astype(str), [*actions, ""])]
        found[source] = pairs
    return found


def divide(
    sources: dict[Source, Pairs], kinds: Sequence[Kind], contents: Contents, allowed: np.ndarray
) -> tuple[list[tuple[Kind, list[Pairs]]], list[str]]:
    """The pairs of each kind that the dataset has, and a note on each kind that it lacks.

    `allowed`: (items,) bool, items that may be trained on.
    """
    found, notes = [], []
    for kind in kinds:
        parts = [
            usable(sources[source], contents, kind.query, kind.item, allowed)
            for source in kind.takes()
            if sources[source].can_query(kind.query) and _teaches(source, kind)
        ]
        parts = [pairs for pairs in parts if len(pairs)]
        if parts:
            found.append((kind, parts))
        else:
            notes.append(f"left out {kind.name}: the dataset has no such pairs ({', '.join(kind.takes())})")
    return found, notes


def _teaches(source: Source, kind: Kind) -> bool:
    """Augmented pairs must not show the same text on both sides: it would be the answer."""
    both_texts = kind.query != "image" and kind.item != "image"
    return source != "augmented" or not both_texts


class Batches:
    """The order of homogeneous batches of the global batch size.

    Attributes:
        steps: batches an epoch.
        counts: batches of each kind an epoch, by weight (largest remainder), at least one each.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], batch: int, steps: int | None, seed: int
    ) -> None:
        """`sizes`: pairs of each kind; `steps`: batches an epoch, None: so many that every kind is seen about once.

        Raises InputError if there are no pairs, or fewer steps than kinds.
        """
        if not sizes:
            raise InputError("no kind of pairs is left to train on; see the notes on what the dataset lacks")
        self.sizes, self.batch, self.seed = list(sizes), batch, seed
        self.steps = steps or max(sum(-(-size // batch) for size in sizes), len(sizes))
        if self.steps < len(sizes):
            raise InputError(f"steps_per_epoch {self.steps} is fewer than the {len(sizes)} kinds of pairs")
        self.counts = _shares(np.asarray(weights, dtype=np.float64), self.steps)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def at(self, epoch: int, index: int) -> tuple[int, np.ndarray]:
        """(kind, pair rows (batch,)) of batch `index` of an epoch; a kind's pairs come again once all have come."""
        rng = np.random.default_rng([self.seed, 1, epoch])
        kinds = rng.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
        kind = int(kinds[index])
        nth = epoch * int(self.counts[kind]) + int((kinds[:index] == kind).sum())
        size = self.sizes[kind]
        places = np.arange(nth * self.batch, (nth + 1) * self.batch)
        rows = np.empty(self.batch, dtype=np.int64)
        for turn in np.unique(places // size):
            mine = places // size == turn
            rows[mine] = self._order(kind, int(turn))[places[mine] % size]
        return kind, rows

    def _order(self, kind: int, turn: int) -> np.ndarray:
        if (kind, turn) not in self._orders:
            for old in [key for key in self._orders if key[0] == kind and key[1] < turn - 1]:
                del self._orders[old]
            rng = np.random.default_rng([self.seed, 2, kind, turn])
            self._orders[kind, turn] = rng.permutation(self.sizes[kind])
        return self._orders[kind, turn]


def _shares(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to weights that sum to `total`, at least one each."""
    exact = weights / weights.sum() * total
    counts = np.maximum(np.floor(exact), 1).astype(np.int64)
    while counts.sum() < total:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > total:
        counts[np.argmin(np.where(counts > 1, exact - counts, np.inf))] -= 1
    return counts
