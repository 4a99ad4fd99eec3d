"""What a version's vectors can do by themselves: the candidates for an intermediate metric.

image_search, text_search  HR@K of the items that were taken after a search for a picture or a text
item_item                  HR@K of the items that users took together with an item
next_item                  union_recall@10 of the next click, less what chance reaches
contrastive                InfoNCE of picture searches against drawn items, at the best of some temperatures (lower is
                           better; its sign is turned so that more is better, as everywhere)
category                   share of the 10 nearest items that are of the same category

Everything is measured on one split of a log, on vectors alone: no ranker is needed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.dataset import Dataset
from experiments.studies.versions import Searches, Vectors
from moon_encoder.forms import Contents
from moon_encoder.next_item import Clicks, clicks, union_recall
from moon_encoder.pairs import CoOccurrence, Split, load_pairs
from moon_encoder.recall import interval
from moon_encoder.search import Held, Listed, Picked, neighbours, rank

CUTOFFS = (1, 10)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5)
NEGATIVES, DEPTH = 255, 10


@dataclass(frozen=True)
class Measured:
    """The questions that every version is asked: the same for all, on one split.

    Attributes:
        category: (items,) code of each item, -1 for none. names: of the codes.
        together: (query item, item) pairs that users took together. clicked: for the next item.
    """

    searches: dict[str, Searches]
    category: np.ndarray
    names: list[str]
    together: tuple[np.ndarray, np.ndarray]
    clicked: Clicks | None

    @classmethod
    def of(
        cls, dataset: Dataset, contents: Contents, searches: dict[str, Searches], split: Split, limit: int
    ) -> "Measured":
        """The questions of a dataset; at most `limit` queries each."""
        rule, everything = CoOccurrence(), np.ones(len(contents), bool)  # pyright: ignore[reportCallIssue]
        pairs = load_pairs("product", contents, split, rule)
        if not len(pairs):
            pairs = load_pairs("co_engagement", contents, split, rule)
        queries = np.unique(pairs.query_item)
        kept = np.random.default_rng(0).permutation(queries)[:limit]
        mine = np.isin(pairs.query_item, kept)
        counts = dataset.meta["counts"]
        clicked = clicks(dataset, split, everything, limit) if counts["behaviors"] and counts[split] else None
        together = pairs.query_item[mine], pairs.item[mine]
        return cls(searches, contents.category, contents.category_names, together, clicked)

    def measure(self, made: Vectors) -> dict[str, dict[str, Any]]:
        """-> by metric {value, low, high, queries, categories {NAME: value}}; metrics that the version cannot have are
        left out."""
        found: dict[str, dict[str, Any]] = {}
        gallery = Held(made.items, made.present)
        for asked, searches in self.searches.items():
            if asked in made.queries:
                self._search(f"{asked}_search", made.queries[asked], searches, gallery, found)
        if "image" in made.queries:
            self._contrastive(made, found)
        self._together(gallery, found)
        self._next(gallery, found)
        self._category(made, gallery, found)
        return found

    def _search(self, name: str, vectors: np.ndarray, searches: Searches, gallery: Held, found: dict) -> None:
        right = Listed.of_pairs(len(searches), searches.number, searches.item)
        first = rank(Held(vectors), gallery, right).first
        example = np.zeros(len(searches), np.int64)
        example[searches.number[::-1]] = searches.item[::-1]
        self._ranks(name, first, example, found)

    def _ranks(self, name: str, first: np.ndarray, example: np.ndarray, found: dict) -> None:
        category = self.category[example]
        for k in CUTOFFS:
            found[f"{name}_hr@{k}"] = self._figure((first > 0) & (first <= k), category)
        inverse = np.divide(1.0, first, out=np.zeros(len(first)), where=first > 0)
        found[f"{name}_mrr"] = self._figure(inverse, category)

    def _figure(self, values: np.ndarray, category: np.ndarray, cluster: np.ndarray | None = None) -> dict[str, Any]:
        low, high = interval(np.asarray(values, np.float64)[:, None], cluster)
        parts = {self.names[c]: float(values[category == c].mean()) for c in np.unique(category[category >= 0])}
        facts = {"value": float(values.mean()), "low": float(low[0]), "high": float(high[0])}
        return facts | {"queries": len(values), "categories": parts}

    def _together(self, gallery: Held, found: dict) -> None:
        query, item = self.together
        if not len(query):
            return
        asked, number = np.unique(query, return_inverse=True)
        able = gallery.present[asked]
        place = np.cumsum(able) - 1
        mine = able[number]
        right = Listed.of_pairs(int(able.sum()), place[number[mine]], item[mine])
        own = asked[able]
        self._ranks("item_item", rank(Picked(gallery, own), gallery, right, own=own).first, own, found)

    def _next(self, gallery: Held, found: dict) -> None:
        if self.clicked is None or not len(self.clicked.item):
            return
        seen = union_recall(self.clicked, gallery)
        values = seen.hit - seen.size / gallery.present.sum()
        found["next_item"] = self._figure(values, self.category[self.clicked.item], self.clicked.user)

    def _contrastive(self, made: Vectors, found: dict) -> None:
        """The first item of each search against NEGATIVES drawn ones (the same for every version)."""
        searches = self.searches["image"]
        item = np.zeros(len(searches), np.int64)
        item[searches.number[::-1]] = searches.item[::-1]
        rng = np.random.default_rng(0)
        others = rng.integers(0, len(made.items), (len(item), NEGATIVES))
        query, right = torch.from_numpy(made.queries["image"]), torch.from_numpy(made.items[item])
        wrong = torch.from_numpy(made.items)[torch.from_numpy(others)]
        cosine = torch.cat([(query * right).sum(1, keepdim=True), torch.einsum("qd,qnd->qn", query, wrong)], 1)
        same = torch.from_numpy(others == item[:, None])
        cosine[:, 1:].masked_fill_(same, -torch.inf)
        losses = [-(cosine / t).log_softmax(1)[:, 0].numpy() for t in TEMPERATURES]
        best = min(losses, key=lambda values: float(values.mean()))
        found["contrastive"] = self._figure(-best, self.category[item])

    def _category(self, made: Vectors, gallery: Held, found: dict) -> None:
        items = np.flatnonzero(made.present & (self.category >= 0))
        if len(self.names) < 2 or not len(items):
            return
        items = np.sort(np.random.default_rng(0).permutation(items)[:2000])
        near, _ = neighbours(Picked(gallery, items), gallery, DEPTH, own=items)
        values = (self.category[near] == self.category[items][:, None]).mean(1)
        found["category"] = self._figure(values, self.category[items])
