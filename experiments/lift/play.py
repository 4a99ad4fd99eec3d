"""One arm through all days of a test, added up by user, day and slice: memory does not grow with the impressions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.marketplace.exposure import charges, rank
from data.marketplace.response import respond
from data.marketplace.traffic import Traffic
from data.marketplace.users import Users
from data.marketplace.utility import true_ctr
from data.progress import Progress
from experiments.lift.arms import Arm
from experiments.lift.config import LiftConfig
from experiments.lift.world import World

SUMS = ("impressions", "clicks", "expected_clicks", "carts", "orders", "revenue", "value")


@dataclass(frozen=True)
class Outcome:
    """What became of an arm.

    Attributes:
        sums: (slices, users, days, SUMS) float64. expected_clicks: the sum of the true click probabilities of what was
            shown. revenue: paid for clicks. value: what the clicks were worth to the advertisers, currency units.
        shown: (items, days) impressions of each item.
    """

    sums: np.ndarray
    shown: np.ndarray


def play(world: World, config: LiftConfig, arm: Arm, name: str) -> Outcome:
    """Show a test's traffic to an arm."""
    market, masks = world.market, list(world.slices.values())
    days = range(market.days, market.days + config.days)
    sums = np.zeros((len(masks), market.users, len(days), len(SUMS)))
    shown = np.zeros((len(world.items), len(days)))
    progress = Progress(f"arm {name}", len(days) * market.sessions_per_day * market.slots)
    today = days[0]
    for users, traffic in world.traffic(days, config.replay):
        if traffic.day != today:
            arm.night(today)
            today = traffic.day
        day = traffic.day - days[0]
        for rows in _rounds(traffic) if arm.by_user else [np.arange(len(traffic.request))]:
            item, parts = _serve(world, config.rank_by, arm, users, traffic, rows)
            np.add.at(shown[:, day], item, 1)
            user = np.repeat(traffic.sessions.user[rows], market.slots)
            for place, mask in enumerate(masks):
                kept = mask[item].ravel()
                for k, values in enumerate(parts):
                    sums[place, :, day, k] += np.bincount(user[kept], values.ravel()[kept], minlength=market.users)
            progress.add(item.size)
    progress.close()
    return Outcome(sums, shown)


def _rounds(traffic: Traffic) -> Iterator[np.ndarray]:
    """Sessions of a part in rounds, the n-th session of each user in the n-th, so that each sees those before it."""
    user = traffic.sessions.user
    order = np.argsort(user, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(user[order]) != 0))
    nth = np.empty(len(user), np.int64)
    nth[order] = np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))
    for turn in range(int(nth.max()) + 1 if len(nth) else 0):
        yield np.flatnonzero(nth == turn)


def _serve(
    world: World, rank_by: str, arm: Arm, users: Users, traffic: Traffic, rows: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rank, show and answer the sessions `rows`: the items (n, slots) and the parts of SUMS, (n, slots) each."""
    market, items = world.market, world.items
    candidates = traffic.candidates[rows]
    pctr = arm.pctr(users, traffic, rows)
    score = arm.order(traffic, rows)
    if score is None:
        score = pctr * items.bid[candidates] if rank_by == "bid_ctr" else pctr
    shown = rank(candidates, score, market.slots)
    user, query = traffic.sessions.user[rows], traffic.sessions.query.take(rows)
    chance = true_ctr(items, users, market, user, query, shown.item, np.arange(market.slots))
    response = respond(traffic.luck.take(rows), shown.place, chance, market)
    clicked, carted, ordered = response.done.astype(np.float64)
    price = charges(candidates, shown.place, pctr, items)
    arm.see(traffic, rows, shown.item, response.done[0])
    action, session, slot = np.nonzero(response.done)
    at = traffic.sessions.at[rows][session] + response.delay[action, session, slot]
    arm.act(user[session], shown.item[session, slot], at, action)
    parts = [
        np.ones(chance.shape),
        clicked,
        chance,
        carted,
        ordered,
        clicked * price,
        clicked * items.value[shown.item],
    ]
    return shown.item, parts
