"""The traffic of a world: who comes with which query, what is retrieved, and the chance, before anything is ranked."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.marketplace.catalogue import Items
from data.marketplace.config import Market
from data.marketplace.exposure import retrieve
from data.marketplace.response import Luck, draw_luck
from data.marketplace.sessions import Sessions, draw_sessions
from data.marketplace.users import Users, make_users

PART_SESSIONS = 4096


@dataclass(frozen=True)
class Traffic:
    """S consecutive sessions of a day. request: (S,) number of each session in the world. candidates: (S, M), see
    `retrieve`."""

    day: int
    request: np.ndarray
    sessions: Sessions
    candidates: np.ndarray
    luck: Luck


def draw_traffic(items: Items, users: Users, market: Market, day: int, replay: int = 0) -> Iterator[Traffic]:
    """A day in order of time, in parts of at most PART_SESSIONS sessions, so that memory does not grow with the day.

    `replay`: other sessions of the same users on the same day (0: those of the logs).
    """
    parts = -(-market.sessions_per_day // PART_SESSIONS)
    edges = [market.sessions_per_day * part // parts for part in range(parts + 1)]
    for part, (first, last) in enumerate(pairwise(edges)):
        rng = np.random.default_rng([market.seed, 5, day, part, replay])
        sessions = draw_sessions(items, users, market, day, rng, (first, last))
        candidates = retrieve(items, market, day, sessions.query, rng)
        luck = draw_luck(last - first, market.candidates, rng)
        yield Traffic(day, day * market.sessions_per_day + np.arange(first, last), sessions, candidates, luck)


def users_by_day(market: Market, first: int = 0) -> Iterator[tuple[int, Users]]:
    """(day, users of that day) without end, from day `first`; tastes drift from day 0 on."""
    users, day = make_users(market), 0
    while True:
        if day >= first:
            yield day, users
        users, day = users.next_day(market, day), day + 1
