"""From a query to what is shown: retrieval, and the logging policy with its propensities."""

from dataclasses import dataclass

import numpy as np

from data.marketplace.catalogue import Items
from data.marketplace.config import Market
from data.marketplace.sessions import Query
from data.marketplace.style import STYLE_DIM


@dataclass(frozen=True)
class Shown:
    """What S sessions saw. item: (S, slots). propensity: (S, slots), probability of this item in this slot given the
    slots above it and the candidates."""

    item: np.ndarray
    propensity: np.ndarray


def retrieve(items: Items, market: Market, day: int, query: Query, rng: np.random.Generator) -> np.ndarray:
    """(S, candidates) born items of each query's category, without repeats; -1 where there are fewer.

    A random sample for a bare category; a query that shows or names a style finds like items more often (Gumbel top-k
    by likeness, so a sample of softmax(retrieval_focus * likeness) without replacement).
    """
    chosen = np.full((len(query.category), market.candidates), -1, np.int64)
    for category in np.unique(query.category):
        alive = np.flatnonzero((items.category == category) & (items.born <= day))
        sessions = np.flatnonzero(query.category == category)
        take = min(market.candidates, len(alive))
        asked = query.pull[sessions] * query.wanted[sessions]
        keys = market.retrieval_focus / np.sqrt(STYLE_DIM) * asked @ items.vector[alive].T
        keys -= np.log(rng.exponential(size=keys.shape))
        chosen[sessions[:, None], np.arange(take)] = alive[np.argpartition(-keys, take - 1, 1)[:, :take]]
    return chosen


def show(candidates: np.ndarray, score: np.ndarray, market: Market, rng: np.random.Generator) -> Shown:
    """Fill the slots one after another: uniformly with probability `exploration`, else by softmax of greed * score.

    candidates, score: (S, M); a candidate of -1 is no item. Every session needs as many items as there are slots.
    """
    sessions, slots = len(candidates), min(market.slots, candidates.shape[1])
    row = np.arange(sessions)
    left = candidates >= 0
    assert (left.sum(1) >= slots).all(), "a session has fewer items than slots"
    top = np.where(left, score, -np.inf).max(1, keepdims=True)
    weight = np.exp(np.minimum(market.greed * (score - top), 0.0))
    item, propensity = np.empty((sessions, slots), np.int64), np.empty((sessions, slots))
    for slot in range(slots):
        greedy = np.where(left, weight, 0.0)
        p = (1 - market.exploration) * greedy / greedy.sum(1, keepdims=True)
        p += market.exploration * left / left.sum(1, keepdims=True)
        cumulative = np.cumsum(p, 1)
        draw = rng.random(sessions) * cumulative[:, -1]
        place = np.argmax(cumulative > draw[:, None], 1)
        item[:, slot], propensity[:, slot] = candidates[row, place], p[row, place]
        left[row, place] = False
    return Shown(item, propensity)
