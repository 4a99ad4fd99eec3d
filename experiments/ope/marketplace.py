"""The marketplace: another policy's click rate from the logs, beside the truth of the same sessions."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data.errors import InputError
from data.marketplace.exposure import chances, draw
from data.marketplace.response import respond
from data.marketplace.traffic import Traffic
from data.marketplace.users import Users
from data.marketplace.utility import true_ctr
from data.progress import Progress
from experiments.lift.arms import Ranked
from experiments.lift.world import World, item_numbers
from experiments.ope.config import Lottery, MarketLog
from experiments.ope.estimators import ESTIMATORS, Logged, estimate
from features.ranks import Ranks
from ranker.run_folder import RunFolder

TRUTH_DRAWS = 8  # lotteries a session; the truth is their mean true click probability


@dataclass(frozen=True)
class Decided:
    """A part of a day: who was there, what the logging policy showed, and the truth of both policies' slates."""

    logged: Logged
    true_logging: np.ndarray
    true_target: np.ndarray


class Judge:
    """Knows both policies and the world; turns sessions with what was shown into logged decisions."""

    def __init__(self, world: World, config: MarketLog, seed: int) -> None:
        fields = {"greed": config.target.greed, "exploration": config.target.exploration}
        self.world, self.target = world, world.market.model_copy(update=fields)
        self.rng = np.random.default_rng([seed, 10])

    def decide(
        self, users: Users, traffic: Traffic, rate: np.ndarray, belief: np.ndarray, place: np.ndarray, done: np.ndarray
    ) -> Decided:
        """`rate`, `belief`: (S, M) pCTR of the logging and of the target policy. place, done: (S, slots), shown and
        clicked. The model expects of an ad its click rate, times the share of its slot."""
        market, candidates = self.world.market, traffic.candidates
        bid = self.world.items.bid[candidates]
        logging = chances(candidates, np.log(bid * rate), place, market)
        target = chances(candidates, np.log(bid * belief), place, self.target)
        chosen = place[:, :, None]
        ratios = (np.take_along_axis(target, chosen, 2) / np.take_along_axis(logging, chosen, 2))[:, :, 0]
        ratio = np.cumprod(ratios, 1)
        before = np.column_stack([np.ones(len(place)), ratio[:, :-1]])
        slot = np.arange(market.slots)
        expected = rate[:, None, :] * (market.position_decay**slot * self._level())[None, :, None]
        logged = Logged(
            reward=done.astype(np.float64).ravel(),
            ratio=ratio.ravel(),
            before=before.ravel(),
            model=np.take_along_axis(expected, chosen, 2).ravel(),
            value=(target * expected).sum(2).ravel(),
            slot=np.tile(slot, len(place)),
            cluster=np.repeat(traffic.sessions.user, market.slots),
        )
        shown = np.take_along_axis(candidates, place, 1)
        drawn = [draw(candidates, np.log(bid * belief), self.target, self.rng).item for _ in range(TRUTH_DRAWS)]
        truth = np.mean([self._true(users, traffic, item) for item in drawn], axis=0)
        return Decided(logged, self._true(users, traffic, shown), truth)

    def _level(self) -> float:
        """Click rates are means over the slots; this makes them those of the first."""
        return 1 / float(np.mean(self.world.market.position_decay ** np.arange(self.world.market.slots)))

    def _true(self, users: Users, traffic: Traffic, item: np.ndarray) -> np.ndarray:
        """(S,) mean true click probability of a slate."""
        sessions, market = traffic.sessions, self.world.market
        slots = np.arange(market.slots)
        return true_ctr(self.world.items, users, market, sessions.user, sessions.query, item, slots).mean(1)


def from_the_logs(world: World, config: MarketLog, ranks: Ranks, seed: int) -> tuple[Logged, float, float]:
    """The logs' last days as decisions, and the true click rates of the logging and of the target policy on them.

    Raises InputError if the logged propensities are not those of this world.
    """
    market, judge = world.market, Judge(world, config, seed)
    days = range(market.days - config.days, market.days)
    arm = None if isinstance(config.target, Lottery) else Ranked(world, RunFolder(config.target.run), ranks, days.start)
    progress = Progress("reading decisions", len(days) * market.sessions_per_day * market.slots)
    found = []
    for day in days:
        rates = world.click_rates(day).rate()
        shown = pl.read_parquet(world.day_file(day))
        first = 0
        for users, traffic in world.traffic(range(day, day + 1), 0):
            stop = first + len(traffic.request) * market.slots
            rows = shown.slice(first, stop - first)
            first = stop
            rate = rates[traffic.candidates]
            place, done = _placed(rows, traffic, world)
            belief = rate if arm is None else arm.pctr(users, traffic, np.arange(len(traffic.request)))
            belief = np.maximum(belief, 1e-9)
            found.append(judge.decide(users, traffic, rate, belief, place, done))
            progress.add(len(rows))
    progress.close()
    return _joined(found)


def coverage(world: World, config: MarketLog, switch: float, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """On fresh days after the logs: how often each estimator's 95 % interval holds the target's true value, its mean
    error relative to the truth, and the deviation of its error.

    The truth is the target policy's mean click rate over all replays.
    """
    market, judge = world.market, Judge(world, config, seed)
    rates = world.click_rates(market.days).rate()
    found, truths = [], []
    progress = Progress("replays", config.replays)
    for replay in range(1, config.replays + 1):
        parts = []
        for users, traffic in world.traffic(range(market.days, market.days + 1), replay):
            rate = rates[traffic.candidates]
            rng = np.random.default_rng([market.seed, 11, replay, int(traffic.request[0])])
            shown = draw(traffic.candidates, np.log(world.items.bid[traffic.candidates] * rate), market, rng)
            slot, sessions = np.arange(market.slots), traffic.sessions
            chance = true_ctr(world.items, users, market, sessions.user, sessions.query, shown.item, slot)
            done = respond(traffic.luck, shown.place, chance, market).done[0]
            parts.append(judge.decide(users, traffic, rate, rate, shown.place, done))
        logged, _, truth = _joined(parts)
        estimates = estimate(logged, switch, draws, seed + replay)
        found.append({name: estimates.value(name) for name in ESTIMATORS})
        truths.append(truth)
        progress.add(1)
    progress.close()
    truth = float(np.mean(truths))
    return {
        name: {
            "covers_truth": float(np.mean([one[name].low <= truth <= one[name].high for one in found])),
            "mean_error": float(np.mean([one[name].value for one in found]) / truth - 1),
            "deviation": float(np.std([one[name].value for one in found]) / truth),
        }
        for name in ESTIMATORS
    } | {"truth": {"value": truth}}


def _placed(rows: pl.DataFrame, traffic: Traffic, world: World) -> tuple[np.ndarray, np.ndarray]:
    """(S, slots) columns of the logged items among the candidates, and whether they were clicked."""
    shape = (len(traffic.request), world.market.slots)
    item = item_numbers(rows["sku"]).reshape(shape)
    match = traffic.candidates[:, None, :] == item[:, :, None]
    if (rows["request"].to_numpy().reshape(shape) != traffic.request[:, None]).any() or not match.any(2).all():
        raise InputError(f"{world.logs}: the logs hold other sessions than market.yaml gives; simulate them again")
    return match.argmax(2), rows["clicked"].to_numpy().reshape(shape) == 1


def _joined(parts: list[Decided]) -> tuple[Logged, float, float]:
    names = list(vars(parts[0].logged))
    logged = Logged(**{name: np.concatenate([getattr(p.logged, name) for p in parts]) for name in names})
    _, cluster = np.unique(logged.cluster, return_inverse=True)
    logged = Logged(**{**vars(logged), "cluster": cluster})
    logging, target = (np.concatenate([getattr(p, name) for p in parts]) for name in ("true_logging", "true_target"))
    return logged, float(logging.mean()), float(target.mean())
