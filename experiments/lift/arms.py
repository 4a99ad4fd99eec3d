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
from data.queries import query_id
from experiments.lift.config import BUILT_IN, LiftConfig, Refresh
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

    def see(self, traffic: Traffic, rows: np.ndarray, item: np.ndarray, clicked: np.ndarray) -> None:  # noqa: B027
        """What the sessions `rows` (n,) were shown, (n, slots) items, and what of it was clicked."""

    def act(self, user: np.ndarray, item: np.ndarray, ts: np.ndarray, action: np.ndarray) -> None:  # noqa: B027
        """What users did, (n,) each: user and item numbers, Unix seconds, index into ACTIONS."""

    def night(self, day: int) -> None:  # noqa: B027
        """Day number `day` ends."""


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

    def see(self, traffic: Traffic, rows: np.ndarray, item: np.ndarray, clicked: np.ndarray) -> None:
        self.rates.see(item, clicked)

    def night(self, day: int) -> None:
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

    def __init__(
        self, world: World, run: RunFolder, ranks: Ranks, first_day: int, refresh: Refresh | None = None
    ) -> None:
        """`first_day`: the earliest day that it will be asked about. `refresh`: None: none.

        Raises InputError if the run was trained on another dataset, or cannot be refreshed.
        """
        self.world, self.refresh = world, refresh or Refresh()  # pyright: ignore[reportCallIssue]
        self.dataset = LiveDataset(world.dataset.root, world.market.first_day + first_day * DAY, world.newcomers)
        self.ranker = LiveRanker(run, self.dataset, ranks, learns=self.refresh.model)
        self._codes = np.array([self.dataset.actions.index(name) for name in ACTIONS])
        self._today: list[pl.DataFrame] = []
        if self.refresh.vectors:
            self._wait(first_day)
        if self.refresh.model:
            for split in ("valid", "test"):
                rows = self.dataset.samples(split).sort("ts").collect(engine="streaming")
                self.ranker.learn(rows.with_columns(context=pl.int_range(pl.len())))

    def _wait(self, day: int) -> None:
        """Items that go live on this day or later have no vector yet."""
        self.ranker.wait(self.world.items.born >= day)

    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        candidates = traffic.candidates[rows]
        session, place = np.nonzero(candidates >= 0)
        out = np.zeros(candidates.shape)
        frame = self._frame(traffic, rows, session, candidates[session, place])
        out[session, place] = self.ranker.score(frame)
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
                "query_image": pl.Series(photos, dtype=pl.String),
            }
        )
        return of_session[session].with_columns(item=item, position=pl.lit(1, pl.Int16), context=session)

    def see(self, traffic: Traffic, rows: np.ndarray, item: np.ndarray, clicked: np.ndarray) -> None:
        if self.ranker.reads_searches:
            self._search(traffic, rows)
        if not self.refresh.model:
            return
        session, slot = np.indices(item.shape).reshape(2, -1)
        frame = self._frame(traffic, rows, session, item.ravel())
        position, label = pl.Series(slot + 1, dtype=pl.Int16), pl.Series(clicked.ravel(), dtype=pl.Float64)
        self._today.append(frame.with_columns(position=position, label=label, context=traffic.request[rows][session]))

    def _search(self, traffic: Traffic, rows: np.ndarray) -> None:
        """The users have searched: later sessions know it."""
        asked = self._frame(traffic, rows, np.arange(len(rows)), np.zeros(len(rows), np.int64))
        ids = asked.select(query_id(asked.columns)).to_series()
        self.dataset.searches.add(asked["user"].to_numpy(), asked["ts"].to_numpy(), ids)

    def night(self, day: int) -> None:
        if self.refresh.vectors:
            self._wait(day + 1)
        if self.refresh.model and self._today:
            self.ranker.learn(pl.concat(self._today))
            self._today = []

    def act(self, user: np.ndarray, item: np.ndarray, ts: np.ndarray, action: np.ndarray) -> None:
        self.dataset.add(self.world.user_rows[user], item, ts, self._codes[action])
        self.ranker.refresh()


def make_arm(world: World, config: LiftConfig, name: str, ranks: Ranks) -> Arm:
    """The arm `name` of a test."""
    if name in BUILT_IN:
        return {"random": Random, "popular": Popular, "oracle": Oracle}[name](world)
    return Ranked(world, RunFolder(config.arms[name].run), ranks, world.market.days, config.refresh)
