"""`python -m experiments.lift.replays`: how often the intervals of A/A tests cover zero, each in a world of its own.

Every replay has its own users, items, sessions, chance and split by hash. Both halves meet the oracle, the one good
ranker that needs no log, so the true lift is zero.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.files import write_json
from data.marketplace.catalogue import make_items
from experiments.lift.arms import Oracle
from experiments.lift.config import LiftConfig
from experiments.lift.estimates import split_lift
from experiments.lift.judge import AA_METRICS
from experiments.lift.play import play
from experiments.lift.world import World, open_world

FIRST_SEED = 1000


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("python -m experiments.lift.replays", description="Coverage of A/A tests.")
    parser.add_argument("logs", type=Path, help="simulated logs; their market.yaml gives the worlds' parameters")
    parser.add_argument("data", type=Path, help="dataset prepared from them")
    parser.add_argument("--users", type=int, nargs="+", default=[500, 2000], help="users of a world")
    parser.add_argument("--replays", type=int, default=200, help="worlds (default: 200)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    world = open_world(args.logs, args.data)
    found = {str(users): coverage(world, users, args.replays) for users in args.users}
    for users, row in found.items():
        print(f"{users} users: " + ", ".join(f"{metric} {share:.1%}" for metric, share in row.items()))
    if args.json:
        write_json(args.json, {"replays": args.replays, "covers_zero": found})
    return 0


def coverage(world: World, users: int, replays: int) -> dict[str, float]:
    """Share of replays of one day whose interval covers zero, by metric."""
    covered = []
    for replay in range(replays):
        market = world.market.model_copy(update={"users": users, "seed": FIRST_SEED + replay})
        items = make_items(market)
        fresh = replace(world, market=market, items=items, slices={"all": np.ones(len(items), bool)})
        test = LiftConfig(  # pyright: ignore[reportCallIssue]
            logs=world.logs, data=world.dataset.root, arms={}, control="oracle", days=1, aa_replays=0
        )
        sums = play(fresh, test, Oracle(fresh), f"replay {replay}").sums[0].sum(1)
        covered.append([split_lift(sums, sums, metric, replay)[0].covers_zero for metric in AA_METRICS])
    return dict(zip(AA_METRICS, np.mean(covered, 0).tolist(), strict=True))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"replays: {error}", file=sys.stderr)
        sys.exit(2)
