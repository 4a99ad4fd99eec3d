"""What users do with what they see: clicks, carts and orders, and when; chance is drawn before anything is shown."""

from dataclasses import dataclass

import numpy as np

from data.marketplace.config import Market

ACTIONS = ("click", "cart", "order")
DELAYS = ((2, 60), (60, 600), (600, 3600))  # seconds from the impression, by action


@dataclass(frozen=True)
class Luck:
    """The chance of S sessions for each of their M candidates, whichever slots they get (common random numbers).

    Attributes:
        chance: (3, S, M) uniform draws for click, cart, order. delay: (3, S, M) seconds after the impression.
    """

    chance: np.ndarray
    delay: np.ndarray

    def take(self, rows: np.ndarray) -> "Luck":
        """The chance of the sessions `rows`."""
        return Luck(self.chance[:, rows], self.delay[:, rows])


@dataclass(frozen=True)
class Response:
    """done: (3, S, slots) bool, clicked, carted, ordered; each implies the one before. delay: (3, S, slots) seconds."""

    done: np.ndarray
    delay: np.ndarray


def draw_luck(sessions: int, candidates: int, rng: np.random.Generator) -> Luck:
    """The chance of a part of a day."""
    shape = (sessions, candidates)
    delay = np.stack([rng.integers(low, high, shape, dtype=np.int16) for low, high in DELAYS])
    return Luck(rng.random((3, *shape), np.float32), delay)


def respond(luck: Luck, place: np.ndarray, click: np.ndarray, market: Market) -> Response:
    """What happens where candidates `place` (S, slots) are shown with click probabilities `click` (S, slots)."""
    chance = np.take_along_axis(luck.chance, place[None], 2)
    done = np.stack([chance[0] < click, chance[1] < market.cart_rate, chance[2] < market.order_rate])
    return Response(np.logical_and.accumulate(done), np.take_along_axis(luck.delay, place[None], 2))
