"""From a query to a log: retrieval, the logging policy with its propensities, examination, clicks."""

from dataclasses import dataclass

import numpy as np

from data.marketplace.catalogue import Items
from data.marketplace.config import Market
from data.marketplace.users import Users, utility


@dataclass(frozen=True)
class Shown:
    """What S sessions saw. item: (S, slots). propensity: (S, slots), probability of this item in this slot given the
    slots above it and the candidates."""

    item: np.ndarray
    propensity: np.ndarray


def true_ctr(
    items: Items, users: Users, market: Market, user: np.ndarray, item: np.ndarray, slot: np.ndarray
) -> np.ndarray:
    """Click probability: examination of the slot (from 0) times attraction of the item; arrays of one shape."""
    base = np.log(market.ctr / (1 - market.ctr))
    attraction = 1 / (1 + np.exp(-(base + utility(items, users, market, user, item))))
    return market.position_decay**slot * attraction


def retrieve(items: Items, day: int, category: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(S, count) items of each session's category that are born, without repeats; -1 where there are fewer."""
    chosen = np.full((len(category), count), -1, np.int64)
    for c in np.unique(category):
        alive = np.flatnonzero((items.category == c) & (items.born <= day))
        sessions = np.flatnonzero(category == c)
        take = min(count, len(alive))
        keys = rng.random((len(sessions), len(alive)))
        chosen[sessions[:, None], np.arange(take)] = alive[np.argpartition(keys, take - 1, 1)[:, :take]]
    return chosen


def show(candidates: np.ndarray, score: np.ndarray, market: Market, rng: np.random.Generator) -> Shown:
    """Fill the slots one after another: uniformly with probability `exploration`, else by softmax of greed * score.

    candidates, score: (S, M); candidates of -1 are never shown while others are left.
    """
    sessions, slots = len(candidates), min(market.slots, candidates.shape[1])
    row = np.arange(sessions)
    left = candidates >= 0
    weight = np.exp(market.greed * (score - score.max(1, keepdims=True)))
    item, propensity = np.empty((sessions, slots), np.int64), np.empty((sessions, slots))
    for slot in range(slots):
        open_ = left.astype(np.float64)
        greedy = weight * open_
        p = (1 - market.exploration) * greedy / greedy.sum(1, keepdims=True)
        p += market.exploration * open_ / open_.sum(1, keepdims=True)
        cumulative = np.cumsum(p, 1)
        draw = rng.random(sessions) * cumulative[:, -1]
        place = np.argmax(cumulative > draw[:, None], 1)
        item[:, slot], propensity[:, slot] = candidates[row, place], p[row, place]
        left[row, place] = False
    return Shown(item, propensity)
