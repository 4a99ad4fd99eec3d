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
    leave_one_out,
    level,
    lift,
    share_of_impressions,
    split_lift,
)
from experiments.lift.play import Outcome
from experiments.lift.world import World

AA_METRICS = ("ctr", "rpm", "orders")


def judge(world: World, config: LiftConfig, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Figures of every arm against the control, overall, by day and by slice."""
    whole = {name: outcome.sums.sum(2) for name, outcome in outcomes.items()}  # (slices, users, SUMS)
    slices = list(world.slices)
    metrics = {
        name: {
            part: {metric: leave_one_out(sums[place], metric) for metric in METRICS}
            for place, part in enumerate(slices)
        }
        for name, sums in whole.items()
    }
    found: dict[str, Any] = {
        "control": config.control,
        "rank_by": config.rank_by,
        "days": config.days,
        "replay": config.replay,
        "refresh": config.refresh.model_dump(),
        "sessions": config.days * world.market.sessions_per_day,
        "users": world.market.users,
        "content_share": world.market.content_share,
        "metrics": {name: what for name, (_, _, _, what) in METRICS.items()},
        "arms": {name: _arm(world, config, name, outcomes, metrics) for name in outcomes},
    }
    if config.aa_replays:
        control = whole[config.control][0]
        found["aa"] = {m: aa_test(control, m, config.aa_replays, config.seed) for m in AA_METRICS}
    return found


def _arm(
    world: World,
    config: LiftConfig,
    name: str,
    outcomes: dict[str, Outcome],
    metrics: dict[str, dict[str, dict[str, np.ndarray]]],
) -> dict[str, Any]:
    control, oracle, outcome = config.control, "oracle", outcomes[name]
    last_day = world.market.days + config.days - 1
    facts: dict[str, Any] = {"metrics": {}, "slices": {}, "by_day": {}}
    facts["new_items"] = _coverage(world, outcome, last_day)
    for metric in METRICS:
        mine, theirs, best = (metrics[arm]["all"][metric] for arm in (name, control, oracle))
        live, _ = split_lift(outcome.sums[0].sum(1), outcomes[control].sums[0].sum(1), metric, config.seed)
        facts["metrics"][metric] = {
            "level": level(mine).as_dict(),
            "lift": lift(mine, theirs).as_dict(),
            "lift_of_a_live_test": live.as_dict(),
            "headroom": headroom(mine, theirs, best).as_dict(),
            "detectable_paired": detectable(mine, theirs),
        }
    for place, part in enumerate(world.slices):
        facts["slices"][part] = {
            metric: {
                "level": level(metrics[name][part][metric]).as_dict(),
                "lift": lift(metrics[name][part][metric], metrics[control][part][metric]).as_dict(),
            }
            for metric in ("ctr", "true_ctr")
        }
        shown = share_of_impressions(outcome.sums[place].sum(1), outcome.sums[0].sum(1))
        facts["slices"][part]["impression_share"] = shown.as_dict()
    for metric in ("ctr", "true_ctr"):
        facts["by_day"][metric] = _by_day(outcome, outcomes[control], metric)
    return facts


def _by_day(outcome: Outcome, control: Outcome, metric: str) -> list[dict[str, float | None]]:
    """The lift up to every day. All days' intervals hold together at 95 % (Bonferroni), so one may look every day."""
    days, rows = outcome.sums.shape[2], []
    for day in range(days):
        mine, theirs = (leave_one_out(o.sums[0, :, : day + 1].sum(1), metric) for o in (outcome, control))
        rows.append(lift(mine, theirs, 1 - (1 - LEVEL) / days).as_dict())
    return rows


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
