"""The sessions: who comes when, and the query, a text or a photo of something they liked."""

from dataclasses import dataclass, fields

import numpy as np

from data.marketplace.catalogue import Items
from data.marketplace.config import Market
from data.marketplace.looks import Looks
from data.marketplace.style import STYLE_DIM
from data.marketplace.users import Users

DAY = 86_400
LIKED_OF = 16


@dataclass(frozen=True)
class Query:
    """What S sessions search for.

    Attributes:
        category: (S,) index into the categories. wanted: (S, STYLE_DIM), the style the query shows or names. pull: the
            same shape, in [0, 1], how much of each dimension of the user's taste it replaces in this session.
        photographed: (S,) item on the query's photo; -1: the query is a text. colour: (S,) index into the colours of
            the word in the text; -1: none.
    """

    category: np.ndarray
    wanted: np.ndarray
    pull: np.ndarray
    photographed: np.ndarray
    colour: np.ndarray

    def take(self, rows: np.ndarray) -> "Query":
        """The queries of the sessions `rows`."""
        return Query(*(getattr(self, f.name)[rows] for f in fields(self)))

    def texts(self, looks: Looks) -> list[str | None]:
        """What was typed; None for a photo."""
        rows = zip(self.category, self.colour, self.photographed, strict=True)
        return [
            None if photo >= 0 else (f"{looks.colours[colour]} " if colour >= 0 else "") + looks.categories[category]
            for category, colour, photo in rows
        ]

    def desire(self, taste: np.ndarray) -> np.ndarray:
        """(S, STYLE_DIM): the users' tastes (same shape) bent to the query, their variance kept."""
        return np.sqrt(1 - self.pull**2) * taste + self.pull * self.wanted


@dataclass(frozen=True)
class Sessions:
    """S sessions in the order of time. user: (S,). at: (S,) Unix seconds."""

    user: np.ndarray
    at: np.ndarray
    query: Query


def draw_sessions(
    items: Items, users: Users, market: Market, day: int, rng: np.random.Generator, part: tuple[int, int] | None = None
) -> Sessions:
    """One day's sessions, or those numbered part[0] to part[1], which come in their share of the day."""
    first, last = part or (0, market.sessions_per_day)
    count = last - first
    user = rng.choice(market.users, count, p=users.activity)
    begin, end = (DAY * number // market.sessions_per_day for number in (first, last))
    at = market.first_day + day * DAY + np.sort(rng.integers(begin, end, count))
    wish = np.exp(users.category[user])
    category = (np.cumsum(wish, 1) > rng.random((count, 1)) * wish.sum(1, keepdims=True)).argmax(1)
    photo = rng.random(count) < market.image_queries
    words = rng.integers(0, len(items.looks.colours), count)
    colour = np.where(~photo & (rng.random(count) < market.colour_queries), words, -1)
    photographed = np.where(photo, _liked(items, users, user, category, day, rng), -1)
    wanted, pull = np.zeros((2, count, STYLE_DIM))
    wanted[photo], pull[photo] = items.vector[photographed[photo]], market.query_pull
    named = colour >= 0
    wanted[named], pull[named] = items.looks.wanted[colour[named]], market.query_pull * items.looks.shown[colour[named]]
    return Sessions(user, at, Query(category, wanted, pull, photographed, colour))


def _liked(
    items: Items, users: Users, user: np.ndarray, category: np.ndarray, day: int, rng: np.random.Generator
) -> np.ndarray:
    """(S,) what each would photograph: of LIKED_OF random born items of the category, the one closest to the taste."""
    found = np.empty(len(user), np.int64)
    for c in np.unique(category):
        alive, rows = np.flatnonzero((items.category == c) & (items.born <= day)), np.flatnonzero(category == c)
        some = rng.choice(alive, (len(rows), LIKED_OF))
        liking = np.einsum("sd,smd->sm", users.taste[user[rows]], items.vector[some])
        found[rows] = some[np.arange(len(rows)), liking.argmax(1)]
    return found
