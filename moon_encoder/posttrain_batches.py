"""Batches of post-training: which pairs, which hard negatives, which items lost; prepared ahead in a thread.

A batch is drawn for all ranks together and then cut, so that its content does not depend on their number.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from features.ranks import Ranks
from moon_encoder.encoder import Inputs
from moon_encoder.hard_negatives import SameCategory
from moon_encoder.mix import Batches, Kind
from moon_encoder.negatives import NOBODY, Labels
from moon_encoder.pairs import Pairs
from moon_encoder.posttrain_config import Posttrain
from moon_encoder.shown import PLAIN, Shown

AHEAD = 2  # batches prepared before they are needed


@dataclass(frozen=True)
class Batch:
    """One rank's part of a batch of one kind: B pairs.

    Attributes:
        kind: number of the kind. query: B contents. item: B positives, then B * hard negatives.
        labels: of `item`. lost: T items of the triplet loss, or None. lost_row: (T,) pairs that they belong to.
    """

    kind: int
    query: Inputs
    item: Inputs
    labels: Labels
    lost: Inputs | None
    lost_row: torch.Tensor


class PairBatches:
    """The batches of a run."""

    def __init__(
        self,
        config: Posttrain,
        kinds: Sequence[tuple[Kind, list[Pairs]]],
        shown: Shown,
        allowed: np.ndarray,
        ranks: Ranks,
    ) -> None:
        """kinds: with their pairs, by source. allowed: (items,) bool, items that may be trained on."""
        self.config, self.kinds, self.shown, self.ranks = config, kinds, shown, ranks
        self.size = config.train.batch_size * ranks.world_size
        sizes = [sum(map(len, parts)) for _, parts in kinds]
        self.order = Batches(sizes, [k.weight for k, _ in kinds], self.size, config.train.steps_per_epoch, config.seed)
        contents = shown.contents
        self._hard = [
            SameCategory(contents.category, contents.product, allowed & contents.has(kind.item)) for kind, _ in kinds
        ]
        self._showable = [allowed & contents.has(kind.item) for kind, _ in kinds]

    def __len__(self) -> int:
        return self.order.steps

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """Batches of an epoch from number `first` on; the same whatever came before."""
        with ThreadPoolExecutor(1) as pool:
            waiting = [pool.submit(self.at, epoch, i) for i in range(first, min(first + AHEAD, len(self)))]
            for index in range(first, len(self)):
                batch = waiting.pop(0).result()
                if index + AHEAD < len(self):
                    waiting.append(pool.submit(self.at, epoch, index + AHEAD))
                yield batch

    def at(self, epoch: int, index: int) -> Batch:
        """Batch `index` of an epoch, this rank's part."""
        config, views = self.config, self.config.views
        number, rows = self.order.at(epoch, index)
        kind, parts = self.kinds[number]
        rng = np.random.default_rng([config.seed, 4, epoch, index])
        picked = _Picked(parts, rows)
        hard = self._hard[number].draw(picked.item, config.negatives.hard, rng)
        lost = self._lost(picked, number, rng)
        mine = slice(self.ranks.rank * config.train.batch_size, (self.ranks.rank + 1) * config.train.batch_size)
        picked, hard, lost = _Picked(parts, rows[mine]), hard[mine], lost[mine]
        query_view = views.of_epoch(epoch)
        item_view = views.other(query_view) if views.item else PLAIN
        queries = picked.queries(self.shown, kind, query_view, views.query)
        items = np.concatenate([picked.item, hard.ravel()])
        found = np.flatnonzero(lost >= 0)
        return Batch(
            number,
            queries,
            self.shown.items(items, kind.item, item_view),
            self._labels(items, picked.user),
            self.shown.items(lost[found], kind.item, item_view) if len(found) else None,
            torch.from_numpy(found),
        )

    def _labels(self, items: np.ndarray, user: np.ndarray) -> Labels:
        """Labels of items, of which the first len(user) are positives of these users."""
        users = np.full(len(items), NOBODY, dtype=np.int64)
        users[: len(user)] = user
        product = self.shown.contents.product[items]
        return Labels(*(torch.from_numpy(np.ascontiguousarray(x, dtype=np.int64)) for x in (items, product, users)))

    def _lost(self, picked: "_Picked", number: int, rng: np.random.Generator) -> np.ndarray:
        """(n,) an item of the same search that did not get the action, -1 where there is none."""
        out = np.full(len(picked.item), -1, dtype=np.int64)
        if not self.config.triplet.weight:
            return out
        for row, items in enumerate(picked.others(self.config.triplet.items)):
            drawn = rng.random()
            items = [i for i in items if self._showable[number][i]]
            if items:
                out[row] = items[int(drawn * len(items))]
        return out


class _Picked:
    """Rows of a kind's pairs, which come from several sources behind each other."""

    def __init__(self, parts: Sequence[Pairs], rows: np.ndarray) -> None:
        starts = np.cumsum([0, *map(len, parts)])
        source = np.searchsorted(starts, rows, side="right") - 1
        self.rows = [np.flatnonzero(source == s) for s in range(len(parts))]
        self.pairs = [part[rows[at] - starts[s]] for s, (part, at) in enumerate(zip(parts, self.rows, strict=True))]
        self.item, self.user = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for pairs, at in zip(self.pairs, self.rows, strict=True):
            self.item[at], self.user[at] = pairs.item, pairs.user

    def queries(self, shown: Shown, kind: Kind, view: int, always: bool) -> Inputs:
        """Inputs of the queries in their order; augmented pairs are shown as a view, others if `always`."""
        batches, order = [], []
        for pairs, at in zip(self.pairs, self.rows, strict=True):
            if len(pairs):
                changed = always or pairs.source == "augmented"
                batches.append(shown.queries(pairs, kind.query, view if changed else PLAIN))
                order.append(at)
        place = torch.from_numpy(np.argsort(np.concatenate(order)))
        return batches[0].cat(batches[1:])[place] if len(batches) > 1 else batches[0]

    def others(self, which: str) -> list[list[int]]:
        """The other items of each pair's request."""
        out: list[list[int]] = [[] for _ in self.item]
        for pairs, at in zip(self.pairs, self.rows, strict=True):
            lists = getattr(pairs, which)
            if lists is not None:
                for row, items in zip(at.tolist(), lists, strict=True):
                    out[row] = items
        return out
