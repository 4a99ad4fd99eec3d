"""Hard negatives: other items of the positive's category."""

import numpy as np


class SameCategory:
    """Draws items of a category; never the positive itself nor an item of the same product."""

    def __init__(self, category: np.ndarray, product: np.ndarray, allowed: np.ndarray) -> None:
        """category, product: (items,) codes, -1 unknown. allowed: (items,) bool, items that may be drawn."""
        self.category, self.product = category, product
        self._all = np.flatnonzero(allowed)
        order = self._all[np.argsort(category[self._all], kind="stable")]
        names, starts = np.unique(category[order], return_index=True)
        parts = np.split(order, starts[1:]) if len(order) else []
        self._of = {int(name): part for name, part in zip(names, parts, strict=True) if name >= 0}

    def draw(self, positive: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """(n,) positives -> (n, count) items; where a category is too small or unknown, items of any category."""
        out = np.empty((len(positive), count), dtype=np.int64)
        for row, item in enumerate(positive.tolist()):
            found = self._some(self._of.get(int(self.category[item]), self._all[:0]), item, count, rng)
            if len(found) < count:
                found = np.concatenate([found, self._some(self._all, item, count - len(found), rng)])
            assert len(found) == count, "fewer items than hard negatives"
            out[row] = found
        return out

    def _some(self, among: np.ndarray, positive: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """At most `count` different items of `among` that may be negatives of `positive`."""
        if not len(among):
            return among
        drawn = among[rng.permutation(len(among))[: 4 * count + 8]]
        same = drawn == positive
        if self.product[positive] >= 0:
            same |= self.product[drawn] == self.product[positive]
        return drawn[~same][:count]
