"""From a query to what is shown: retrieval, the logging policy's lottery with its propensities, and the auction."""

from dataclasses import dataclass

import numpy as np

from data.marketplace.catalogue import Items
from data.marketplace.config import Market
from data.marketplace.sessions import Query
from data.marketplace.style import STYLE_DIM


@dataclass(frozen=True)
class Shown:
    """What S sessions saw; arrays are (S, slots).

    Attributes:
        item: item numbers. place: column of each among the session's candidates. propensity: probability of this item
            in this slot given the candidates and the slots above; 1 for a ranking without chance.
    """

    item: np.ndarray
    place: np.ndarray
    propensity: np.ndarray


def retrieve(items: Items, market: Market, day: int, query: Query, rng: np.random.Generator) -> np.ndarray:
    """(S, candidates) items of each query's category that take part, without repeats; -1 where there are fewer.

    A random sample for a bare category; a query that shows or names a style finds like items more often (Gumbel top-k
    by likeness, so a sample of softmax(retrieval_focus * likeness) without replacement).
    """
    chosen = np.full((len(query.category), market.candidates), -1, np.int64)
    for category in np.unique(query.category):
        alive = items.alive(category, day)
        sessions = np.flatnonzero(query.category == category)
        take = min(market.candidates, len(alive))
        asked = query.pull[sessions] * query.wanted[sessions]
        keys = market.retrieval_focus / np.sqrt(STYLE_DIM) * asked @ items.vector[alive].T
        keys -= np.log(rng.exponential(size=keys.shape))
        chosen[sessions[:, None], np.arange(take)] = alive[np.argpartition(-keys, take - 1, 1)[:, :take]]
    return chosen


def draw(candidates: np.ndarray, score: np.ndarray, market: Market, rng: np.random.Generator) -> Shown:
    """Fill the slots one after another: uniformly with probability `exploration`, else by softmax of greed * score.

    candidates, score: (S, M); a candidate of -1 is no item. Every session needs as many items as there are slots.
    With score = log(bid * pCTR) the softmax is a lottery with chances (bid * pCTR) ** greed.
    """
    sessions, slots = len(candidates), market.slots
    row = np.arange(sessions)
    left = _present(candidates, slots)
    weight = _weights(left, score, market)
    place, propensity = np.empty((sessions, slots), np.int64), np.empty((sessions, slots))
    for slot in range(slots):
        p = _chances(left, weight, market)
        cumulative = np.cumsum(p, 1)
        drawn = rng.random(sessions) * cumulative[:, -1]
        place[:, slot] = np.argmax(cumulative > drawn[:, None], 1)
        propensity[:, slot] = p[row, place[:, slot]]
        left[row, place[:, slot]] = False
    return Shown(candidates[row[:, None], place], place, propensity)


def chances(candidates: np.ndarray, score: np.ndarray, place: np.ndarray, market: Market) -> np.ndarray:
    """(S, slots, M) with which probability `draw` by this score fills a slot with each candidate, when the slots above
    hold `place` (S, slots)."""
    row = np.arange(len(candidates))
    left = _present(candidates, place.shape[1])
    weight = _weights(left, score, market)
    found = np.empty((*place.shape, candidates.shape[1]))
    for slot in range(place.shape[1]):
        found[:, slot] = _chances(left, weight, market)
        left[row, place[:, slot]] = False
    return found


def rank(candidates: np.ndarray, score: np.ndarray, slots: int) -> Shown:
    """The highest scores first; candidates, score: (S, M). Equal scores keep the candidates' order."""
    left = _present(candidates, slots)
    place = np.argsort(-np.where(left, score, -np.inf), 1, kind="stable")[:, :slots]
    return Shown(np.take_along_axis(candidates, place, 1), place, np.ones(place.shape))


def charges(candidates: np.ndarray, place: np.ndarray, pctr: np.ndarray, items: Items) -> np.ndarray:
    """(S, slots) what a click on each slot costs (generalised second price).

    The smallest bid that outscores, in bid * pCTR, the ad of the next slot (below the last slot: the best of those not
    shown), at least the reserve and at most the own bid. candidates, pctr: (S, M); place: (S, slots).
    """
    bid = np.where(candidates >= 0, items.bid[candidates], 0.0)
    worth = bid * np.where(candidates >= 0, pctr, 0.0)
    shown = np.take_along_axis(worth, place, 1)
    rest = worth.copy()
    np.put_along_axis(rest, place, 0.0, 1)
    below = np.concatenate([shown[:, 1:], rest.max(1, keepdims=True)], 1)
    price = below / np.maximum(np.take_along_axis(pctr, place, 1), 1e-12)
    item = np.take_along_axis(candidates, place, 1)
    return np.clip(price, items.reserve[item], items.bid[item])


def _present(candidates: np.ndarray, slots: int) -> np.ndarray:
    left = candidates >= 0
    assert (left.sum(1) >= slots).all(), "a session has fewer items than slots"
    return left


def _weights(left: np.ndarray, score: np.ndarray, market: Market) -> np.ndarray:
    top = np.where(left, score, -np.inf).max(1, keepdims=True)
    return np.exp(np.minimum(market.greed * (score - top), 0.0))


def _chances(left: np.ndarray, weight: np.ndarray, market: Market) -> np.ndarray:
    """(S, M) probability of each candidate for the next slot, those still `left`."""
    greedy = np.where(left, weight, 0.0)
    chance = (1 - market.exploration) * greedy / greedy.sum(1, keepdims=True)
    return chance + market.exploration * left / left.sum(1, keepdims=True)
