"""The arms: what each believes an ad's click probability to be. All else is the same for all."""

from abc import ABC, abstractmethod

import numpy as np
import polars as pl

from data.live import LiveDataset
from data.marketplace.response import ACTIONS
from data.marketplace.sessions import DAY
from data.marketplace.simulate import photo_key
from data.marketplace.traffic import Traffic
from data.marketplace.users import Users
from data.marketplace.utility import true_ctr
from experiments.lift.config import BUILT_IN, LiftConfig
from experiments.lift.world import World
from features.ranks import Ranks
from ranker.live import LiveRanker
from ranker.run_folder import RunFolder


class Arm(ABC):
    """A belief about clicks, which may learn from what the arm itself has shown.

    Attributes:
        by_user: whether what users did earlier the same day must be known before they are scored again.
    """

    by_user = False

    @abstractmethod
    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        """(n, M) click probability in the first slot of the candidates of the sessions `rows` (n,)."""

    def order(self, traffic: Traffic, rows: np.ndarray) -> np.ndarray | None:
        """(n, M) scores that the slots are filled by, if that is not the auction."""
        return None

    def see(self, item: np.ndarray, clicked: np.ndarray) -> None:  # noqa: B027
        """What was shown, (n, slots) items, and what of it was clicked."""

    def act(self, user: np.ndarray, item: np.ndarray, ts: np.ndarray, action: np.ndarray) -> None:  # noqa: B027
        """What users did, (n,) each: user and item numbers, Unix seconds, index into ACTIONS."""

    def night(self) -> None:  # noqa: B027
        """A day ends."""


class Random(Arm):
    """Knows nothing and shows ads in random order."""

    def __init__(self, world: World) -> None:
        self.world = world

    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), traffic.candidates.shape[1]), self.world.market.ctr)

    def order(self, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.world.market.seed, 9, int(traffic.request[0])])
        return rng.random(traffic.candidates.shape)[rows]


class Popular(Arm):
    """Knows each item's click rate up to last night, as the logging policy does, and leaves nothing to chance."""

    def __init__(self, world: World) -> None:
        self.rates = world.click_rates(world.market.days)

    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        return self.rates.rate()[traffic.candidates[rows]]

    def see(self, item: np.ndarray, clicked: np.ndarray) -> None:
        self.rates.see(item, clicked)

    def night(self) -> None:
        self.rates.night()


class Oracle(Arm):
    """Knows the truth."""

    def __init__(self, world: World) -> None:
        self.world = world

    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        sessions, candidates = traffic.sessions, traffic.candidates[rows]
        return true_ctr(
            self.world.items, users, self.world.market, sessions.user[rows], sessions.query.take(rows), candidates, 0
        )


class Ranked(Arm):
    """Believes a trained ranker, which sees what it saw in training: the prepared logs, then what its own users did."""

    by_user = True

    def __init__(self, world: World, run: RunFolder, ranks: Ranks, first_day: int) -> None:
        """`first_day`: the earliest day that it will be asked about.

        Raises InputError if the run was trained on another dataset.
        """
        self.world = world
        self.dataset = LiveDataset(world.dataset.root, world.market.first_day + first_day * DAY, world.newcomers)
        self.ranker = LiveRanker(run, self.dataset, ranks)
        self._codes = np.array([self.dataset.actions.index(name) for name in ACTIONS])

    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        candidates = traffic.candidates[rows]
        session, place = np.nonzero(candidates >= 0)
        out = np.zeros(candidates.shape)
        out[session, place] = self.ranker.score(self._frame(traffic, rows, session, candidates[session, place]))
        return out

    def _frame(self, traffic: Traffic, rows: np.ndarray, session: np.ndarray, item: np.ndarray) -> pl.DataFrame:
        """The samples that the logs would hold, one a candidate, in the first slot."""
        sessions, query = traffic.sessions, traffic.sessions.query.take(rows)
        user, at, request = self.world.user_rows[sessions.user[rows]], sessions.at[rows], traffic.request[rows]
        ends = self.dataset.history_ends(user, at)
        photos = [photo_key(r) if p >= 0 else None for r, p in zip(request, query.photographed, strict=True)]
        of_session = pl.DataFrame(
            {
                "ts": at,
                "user": user,
                "history_end": ends,
                "request_id": request,
                "hour": (at - self.world.market.first_day) % DAY // 3600,
                "query": pl.Series(query.texts(self.world.items.looks), dtype=pl.String),
                "query_photo": pl.Series(photos, dtype=pl.String),
            }
        )
        return of_session[session].with_columns(item=item, position=pl.lit(1, pl.Int16), context=session)

    def act(self, user: np.ndarray, item: np.ndarray, ts: np.ndarray, action: np.ndarray) -> None:
        self.dataset.add(self.world.user_rows[user], item, ts, self._codes[action])
        self.ranker.refresh()


def make_arm(world: World, config: LiftConfig, name: str, ranks: Ranks) -> Arm:
    """The arm `name` of a test."""
    if name in BUILT_IN:
        return {"random": Random, "popular": Popular, "oracle": Oracle}[name](world)
    return Ranked(world, RunFolder(config.arms[name].run), ranks, world.market.days)
