"""Stage B's data: the cleaning steps in METHOD's order over the loaded kinds of pairs, with their counts."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from moon_encoder.cleaning import (
    Counts,
    enough_entities,
    least_similar_query,
    match_exposure,
    merge_products,
)
from moon_encoder.entities import load_tagger
from moon_encoder.forms import Contents, shows_text
from moon_encoder.losses import unit
from moon_encoder.mix import Kind
from moon_encoder.pairs import Pairs, usable
from moon_encoder.posttrain_config import Cleaning
from moon_encoder.shown import PLAIN, Shown
from moon_encoder.valid_search import embed


def cleaned(
    pairs: Pairs, mix: Sequence[Kind], cleaning: Cleaning, shown: Shown, allowed: np.ndarray, seed: int
) -> tuple[Pairs, list[Counts]]:
    """The pairs of a source after the steps that the config takes; `shown.encoder` is the previous encoder.

    The forms in which it sees a pair are those of the kind with the largest weight that takes this source. allowed:
    (items,) bool, items that may be trained on; pairs of others go first and are not counted.
    """
    contents = shown.contents
    taking = [kind for kind in mix if pairs.source in kind.takes() and pairs.can_query(kind.query)]
    if not taking or not len(pairs):
        return pairs, []
    kind = max(taking, key=lambda k: k.weight)
    pairs, counts = usable(pairs, contents, kind.query, kind.item, allowed), []
    if cleaning.least_similar_query:
        pairs, count = least_similar_query(pairs, cosines(pairs, kind, shown))
        counts.append(count)
    if cleaning.merge_products:
        pairs, count = merge_products(pairs, contents.product)
        counts.append(count)
    if cleaning.match_exposure:
        rng = np.random.default_rng([seed, 5])
        pairs, count = match_exposure(pairs, contents.category, exposure(contents), rng)
        counts.append(count)
    if cleaning.entities and (shows_text(kind.item) or kind.query != "image"):
        items = contents.dataset.items().collect()
        tagger = load_tagger(cleaning.tagger, items, contents.columns.title)
        pairs, count = enough_entities(pairs, texts(pairs, kind, contents), tagger, cleaning.entities)
        counts.append(count)
    return pairs, counts


def cosines(pairs: Pairs, kind: Kind, shown: Shown) -> np.ndarray:
    """(n,) cosine of query and item by the encoder as it is; each query and each item is embedded once."""
    asked = pairs.query_item if pairs.asked_by == "item" else pairs.query.astype(str)
    _, first, asked_at = np.unique(asked, return_index=True, return_inverse=True)
    queries = unit(embed(shown.encoder, len(first), lambda r: shown.queries(pairs[first[r]], kind.query, PLAIN)))
    items, item_at = np.unique(pairs.item, return_inverse=True)
    vectors = unit(embed(shown.encoder, len(items), lambda r: shown.items(items[r], kind.item)))
    parts = [torch.empty(0)]
    for at in range(0, len(pairs), 4096):
        of_query, of_item = (torch.from_numpy(place[at : at + 4096]) for place in (asked_at, item_at))
        parts.append((queries[of_query] * vectors[of_item]).sum(1))
    return torch.cat(parts).numpy()


def exposure(contents: Contents) -> np.ndarray:
    """(categories + 1,) train impressions by category, the last of unknown category; items where there is no log."""
    dataset, size = contents.dataset, len(contents.category_names) + 1
    if not dataset.meta["counts"]["train"]:
        return np.bincount(contents.category % size, minlength=size).astype(np.float64)
    shown = np.zeros(len(contents))
    found = dataset.samples("train").group_by("item").agg(pl.len()).collect(engine="streaming")
    shown[found["item"].to_numpy()] = found["len"].to_numpy()
    return np.bincount(contents.category % size, weights=shown, minlength=size)


def texts(pairs: Pairs, kind: Kind, contents: Contents) -> Sequence[str]:
    """The text of each pair: what was typed, else the query item's, else the item's title."""
    if pairs.asked_by == "text":
        return pairs.query.tolist()
    if pairs.asked_by == "item" and kind.query != "image":
        return contents.item_texts("title" if kind.query == "text" else kind.query)[pairs.query_item].tolist()
    return contents.item_texts(kind.item)[pairs.item].tolist()
