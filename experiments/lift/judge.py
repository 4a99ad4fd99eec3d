"""The outcomes of all arms -> the figures of a test."""

from typing import Any

import numpy as np

from experiments.lift.config import LiftConfig
from experiments.lift.estimates import (
    LEVEL,
    METRICS,
    aa_test,
    detectable,
    headroom,
    interval,
    lift,
    ratios,
    split_lift,
    user_weights,
)
from experiments.lift.play import SUMS, Outcome
from experiments.lift.world import World

AA_DRAWS = 400
AA_METRICS = ("ctr", "rpm")


def judge(world: World, config: LiftConfig, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Figures of every arm against the control, overall, by day and by slice."""
    weights = user_weights(world.market.users, config.draws, config.seed)
    whole = {name: outcome.sums.sum(2) for name, outcome in outcomes.items()}  # (slices, users, SUMS)
    slices = list(world.slices)
    draws = {
        name: {
            part: {metric: ratios(weights, sums[place], metric) for metric in METRICS}
            for place, part in enumerate(slices)
        }
        for name, sums in whole.items()
    }
    found: dict[str, Any] = {
        "control": config.control,
        "rank_by": config.rank_by,
        "days": config.days,
        "replay": config.replay,
        "sessions": config.days * world.market.sessions_per_day,
        "users": world.market.users,
        "draws": config.draws,
        "content_share": world.market.content_share,
        "metrics": {name: what for name, (_, _, _, what) in METRICS.items()},
        "arms": {name: _arm(world, config, name, outcomes, draws, weights) for name in outcomes},
    }
    if config.aa_replays:
        control = whole[config.control][0]
        found["aa"] = {m: aa_test(control, m, config.aa_replays, AA_DRAWS, config.seed) for m in AA_METRICS}
    return found


def _arm(
    world: World,
    config: LiftConfig,
    name: str,
    outcomes: dict[str, Outcome],
    draws: dict[str, dict[str, Any]],
    weights: np.ndarray,
) -> dict[str, Any]:
    control, oracle, outcome = config.control, "oracle", outcomes[name]
    last_day = world.market.days + config.days - 1
    facts: dict[str, Any] = {"metrics": {}, "slices": {}, "by_day": {}}
    facts["new_items"] = _coverage(world, outcome, last_day)
    for metric in METRICS:
        mine, theirs, best = (draws[arm]["all"][metric] for arm in (name, control, oracle))
        relative = lift(mine, theirs)
        live, _ = split_lift(
            outcome.sums[0].sum(1), outcomes[control].sums[0].sum(1), metric, config.seed, config.draws, config.seed
        )
        facts["metrics"][metric] = {
            "level": interval(mine).as_dict(),
            "lift": interval(relative).as_dict(),
            "lift_of_a_live_test": live.as_dict(),
            "headroom": interval(headroom(mine, theirs, best)).as_dict(),
            "detectable_paired": detectable(relative),
        }
    for part in world.slices:
        facts["slices"][part] = {
            metric: {
                "level": interval(draws[name][part][metric]).as_dict(),
                "lift": interval(lift(draws[name][part][metric], draws[control][part][metric])).as_dict(),
            }
            for metric in ("ctr", "true_ctr")
        } | {"impression_share": _share(weights, outcome, list(world.slices).index(part))}
    for metric in ("ctr", "true_ctr"):
        facts["by_day"][metric] = _by_day(outcome, outcomes[control], metric, weights)
    return facts


def _by_day(outcome: Outcome, control: Outcome, metric: str, weights: np.ndarray) -> list[dict[str, float | None]]:
    """The lift up to every day. All days' intervals hold together at 95 % (Bonferroni), so one may look every day."""
    days, rows = outcome.sums.shape[2], []
    level = 1 - (1 - LEVEL) / days
    for day in range(days):
        mine, theirs = (ratios(weights, o.sums[0, :, : day + 1].sum(1), metric) for o in (outcome, control))
        rows.append(interval(lift(mine, theirs), level).as_dict())
    return rows


def _share(weights: np.ndarray, outcome: Outcome, place: int) -> dict[str, float | None]:
    """Share of all impressions that fall on a slice."""
    k = SUMS.index("impressions")
    part, everything = (weights @ outcome.sums[p, :, :, k].sum(1) for p in (place, 0))
    return interval(part / everything).as_dict()


def _coverage(world: World, outcome: Outcome, last_day: int) -> dict[str, float]:
    """How many of the new items that take part were shown at all, and how many often enough to be known."""
    items = world.items
    new = world.slices["new_items"] & (items.born <= last_day) & (items.bid >= items.reserve)
    shown = outcome.shown.sum(1)[new]
    return {
        "items": int(new.sum()),
        "shown": float((shown > 0).mean()) if len(shown) else 0.0,
        "shown_20_times": float((shown >= 20).mean()) if len(shown) else 0.0,
    }
