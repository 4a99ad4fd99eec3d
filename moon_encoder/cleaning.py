"""The four cleaning steps of stage B; each takes pairs and returns those that stay, with counts before and after.

METHOD: of one item's many queries keep the pair that the previous encoder finds least similar; merge the SKUs of a
product (SPU); bring the categories to the exposure mix; drop texts with fewer than two entities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moon_encoder.entities import Tagger
from moon_encoder.pairs import Pairs

ENTITIES = 2
FEW = 20  # pairs; a category with fewer does not decide how many the others may have


@dataclass(frozen=True)
class Counts:
    """What a step did: pairs before and after, and further numbers that say what it saw."""

    step: str
    source: str
    before: int
    after: int
    more: Mapping[str, float]

    def line(self) -> str:
        """For people."""
        more = ", ".join(f"{name} {value:g}" for name, value in self.more.items())
        share = self.after / self.before if self.before else 0.0
        return f"{self.source}: {self.step}: {self.before:,} -> {self.after:,} pairs ({share:.1%})" + (
            f"; {more}" if more else ""
        )


def least_similar_query(pairs: Pairs, cosine: np.ndarray) -> tuple[Pairs, Counts]:
    """Of each item's pairs the one with the lowest cosine (n,) of query and item; ties: the first."""
    order = np.lexsort((np.arange(len(pairs)), cosine, pairs.item))
    first = np.ones(len(order), dtype=bool)
    first[1:] = pairs.item[order][1:] != pairs.item[order][:-1]
    kept = np.sort(order[first])
    more = {"items": len(kept), "cosine before": _mean(cosine), "cosine after": _mean(cosine[kept])}
    return pairs[kept], Counts("least similar query", pairs.source, len(pairs), len(kept), more)


def merge_products(pairs: Pairs, product: np.ndarray) -> tuple[Pairs, Counts]:
    """SKUs of one SPU count as one item: a query's second pair with the same SPU goes.

    product: (items,) codes, -1 where unknown (such an item is its own). That they are not each other's negatives is
    the business of `negatives.Labels.group`.
    """
    owner = np.where(product[pairs.item] >= 0, product[pairs.item], -2 - pairs.item)
    seen: set[tuple[str, int, int, int]] = set()
    keep = np.zeros(len(pairs), dtype=bool)
    keys = zip(pairs.query.tolist(), pairs.query_item.tolist(), pairs.user.tolist(), owner.tolist(), strict=True)
    for row, key in enumerate(keys):
        keep[row] = key not in seen
        seen.add(key)
    items, products = len(np.unique(pairs.item)), len(np.unique(owner))
    more = {"SKUs": items, "SPUs": products}
    return pairs[keep], Counts("merge SKUs of a product", pairs.source, len(pairs), int(keep.sum()), more)


def match_exposure(
    pairs: Pairs, category: np.ndarray, exposure: np.ndarray, rng: np.random.Generator
) -> tuple[Pairs, Counts]:
    """Categories down-sampled until their shares among the pairs are those of exposure.

    category: (items,) codes, -1 unknown. exposure: (categories + 1,) impressions, the last of unknown category.
    The largest sample with the exposure's shares is kept; categories with fewer than FEW pairs keep all they have.
    """
    mine = category[pairs.item] % len(exposure)  # -1 -> the last
    have = np.bincount(mine, minlength=len(exposure))
    share = exposure / max(exposure.sum(), 1)
    deciding = (have >= FEW) & (share > 0)
    size = float((have[deciding] / share[deciding]).min()) if deciding.any() else 0.0
    most = np.where(have >= FEW, np.floor(share * size + 1e-9), have).astype(np.int64)
    mixed = rng.permutation(len(pairs))
    mixed = mixed[np.argsort(mine[mixed], kind="stable")]
    nth = np.arange(len(mixed)) - np.searchsorted(mine[mixed], mine[mixed])
    kept = np.sort(mixed[nth < most[mine[mixed]]])
    after = np.bincount(mine[kept], minlength=len(exposure))
    more = {"distance before": _distance(have, share), "distance after": _distance(after, share)}
    return pairs[kept], Counts("categories to the exposure mix", pairs.source, len(pairs), len(kept), more)


def enough_entities(pairs: Pairs, texts: Sequence[str], tagger: Tagger, least: int = ENTITIES) -> tuple[Pairs, Counts]:
    """Pairs whose text (one a pair) has at least `least` entities."""
    numbers = np.array([len(found) for found in tagger(texts)], dtype=np.int64)
    kept = np.flatnonzero(numbers >= least)
    more = {"entities a text": _mean(numbers)}
    return pairs[kept], Counts(f"at least {least} entities", pairs.source, len(pairs), len(kept), more)


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0


def _distance(counts: np.ndarray, share: np.ndarray) -> float:
    """Total variation distance of the counts' shares from `share`."""
    return round(float(np.abs(counts / max(counts.sum(), 1) - share).sum() / 2), 4)
