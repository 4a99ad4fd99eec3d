"""`python -m experiments.lift.headroom WORLD...`: where the headroom is that a ranker with vectors does not capture.

Rankers that are told part of the truth are played online. Each adds numbers to the control's logit, with weights fitted
on the valid rows (logistic regression, so the scale of the scores is that of the clicks):

    control   nothing
    content   what the session desires of a look times the item's look, both true
    clicks    the same with the user's taste read from their clicks, and the colour that was typed
    vectors   the same with looks read from the vectors (ridge regression over the other items)
    moon      nothing, but on the ranker with vectors

From the oracle to `content` is what is no content; to `clicks` what clicks do not tell of a taste; to `vectors` what
the vectors do not tell of a look; to `moon` what the ranker did not learn.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.files import write_json
from data.host import keep_freed_memory
from data.marketplace.sessions import DAY, Query
from data.marketplace.traffic import Traffic, draw_traffic, users_by_day
from data.marketplace.users import Users
from experiments.lift.arms import Arm, Oracle, Ranked
from experiments.lift.config import LiftConfig
from experiments.lift.estimates import leave_one_out
from experiments.lift.play import play
from experiments.lift.shares_report import CONTROL, mean
from experiments.lift.world import World, open_world
from experiments.page import Table, cell
from features.ranks import Ranks, process_group
from features.store import Store
from ranker.run_folder import RunFolder

STEPS = ("control", "content", "clicks", "vectors", "moon")
LENGTH, HALF_LIFE, PSEUDO_CLICKS = 50, 7 * DAY, 8.0  # of the history that a taste is read from
FOLDS, RIDGE = 5, 0.01  # of the looks read from vectors; the ridge is a share of the rows


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("python -m experiments.lift.headroom", description="Where the headroom is.")
    parser.add_argument("worlds", type=Path, nargs="+", help="world folders of moon study lift (OUT/seed-S/share-X)")
    parser.add_argument("--arm", default="cube", help="the ranker with vectors (default: cube)")
    parser.add_argument("--days", type=int, default=1, help="days played (default: 1)")
    parser.add_argument("--rank-by", default="bid_ctr", choices=("bid_ctr", "ctr"), help="how ads stand")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    keep_freed_memory()
    with process_group() as ranks:
        worlds = [headroom_of(root, args.arm, args.days, args.rank_by, ranks) for root in args.worlds]
    found = {"arm": args.arm, "days": args.days, "rank_by": args.rank_by, "worlds": worlds, "mean": _mean(worlds)}
    print(table(found).markdown())
    if args.json:
        write_json(args.json, found)
    return 0


def headroom_of(root: Path, arm: str, days: int, rank_by: str, ranks: Ranks) -> dict[str, dict[str, float]]:
    """Step -> {true_ctr, lift over the control, headroom} of one world of `moon study lift`.

    Raises InputError if the folder is none, or has not one store and one run of the control and of the arm.
    """
    world = open_world(root / "logs", root / "data")
    (run, moon), store = (_only(root / "runs" / name, "s*/meta.json").parent for name in (CONTROL, arm)), None
    store = _only(root, "store*/v*").parent
    test = LiftConfig.model_validate(
        {"logs": world.logs, "data": world.dataset.root, "arms": {}, "control": "oracle", "days": days}
        | {"rank_by": rank_by, "aa_replays": 0}
    )
    looks = read_looks(Store(store).current.vectors(np.arange(len(world.items)))[0], world)
    true = world.items.vector
    arms: dict[str, Arm] = {"oracle": Oracle(world)}
    for step in STEPS:
        base = Ranked(world, RunFolder(moon if step == "moon" else run), ranks, world.market.days)
        arms[step] = Told(world, base, step, looks if step == "vectors" else true)
    levels = {}
    for step, one in arms.items():
        sums = play(world, test, one, step).sums[0].sum(1)
        levels[step] = float(leave_one_out(sums, "true_ctr")[0])
    least, most = levels["control"], levels["oracle"]
    return {
        step: {"true_ctr": level, "lift": level / least - 1, "headroom": (level - least) / (most - least)}
        for step, level in levels.items()
    }


def _only(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{root}: {len(found)} of {pattern}, one is needed; give a finished world of moon study lift")
    return found[0]


def read_looks(vectors: np.ndarray, world: World) -> np.ndarray:
    """(items, STYLE_DIM) looks as vectors (items, M) and categories tell them: of each item by ridge regression over
    the items of other folds."""
    items = world.items
    known = np.column_stack([vectors.astype(np.float64), np.eye(int(items.category.max()) + 1)[items.category]])
    fold = np.random.default_rng(0).permutation(len(items)) % FOLDS
    found = np.empty_like(items.vector)
    for out in range(FOLDS):
        x, y = known[fold != out], items.vector[fold != out]
        normal = x.T @ x + RIDGE * len(x) * np.diag(known.var(0))
        found[fold == out] = known[fold == out] @ np.linalg.solve(normal, x.T @ y)
    return found


class Told(Arm):
    """A trained ranker that is told more; see the module."""

    by_user = True

    def __init__(self, world: World, base: Ranked, step: str, looks: np.ndarray) -> None:
        """`looks`: (items, STYLE_DIM) as they are read."""
        self.world, self.base, self.step, self.looks = world, base, step, looks
        frame = world.dataset.samples("valid").collect()
        scores = base.ranker.run.read_predictions("valid")["score"].to_numpy()
        told = np.concatenate([self._told_of(day, rows) for day, rows in self._days(frame)])
        self.weights = logistic(np.column_stack([log_odds(scores), told]), frame["label"].to_numpy())

    def _days(self, frame: Any) -> list[tuple[int, Any]]:
        day = (frame["ts"] - self.world.market.first_day) // DAY
        return [(int(d), frame.filter(day == d)) for d in day.unique(maintain_order=True)]

    def _told_of(self, day: int, frame: Any) -> np.ndarray:
        """(n, K) what is told of the samples of a day of the logs."""
        market = self.world.market
        users = next(users for number, users in users_by_day(market, day))
        parts = []
        for traffic in draw_traffic(self.world.items, users, market, day):
            request = frame["request_id"].to_numpy()
            rows = frame.filter((request >= traffic.request[0]) & (request <= traffic.request[-1]))
            place = rows["request_id"].to_numpy() - traffic.request[0]
            told = self._told(users, traffic, place, rows["item"].to_numpy()[:, None], rows["history_end"].to_numpy())
            parts.append(told[:, 0])
        return np.concatenate(parts)

    def _told(self, users: Users, traffic: Traffic, rows: np.ndarray, item: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(S, M, K) of the sessions `rows` (S,) and items (S, M); ends: (S,) behaviours of the users so far."""
        user, query = traffic.sessions.user[rows], traffic.sessions.query.take(rows)
        if self.step in ("control", "moon"):
            return np.empty((*item.shape, 0))
        if self.step == "content":
            return np.einsum("sd,smd->sm", query.desire(users.taste[user]), self.world.items.vector[item])[..., None]
        typed = (query.colour >= 0)[:, None]
        taste = self._taste(self.world.user_rows[user], ends, traffic.sessions.at[rows])
        asked = Query(query.category, query.wanted * typed, query.pull * typed, query.photographed, query.colour)
        wishes = np.stack([np.sqrt(1 - asked.pull**2) * taste, asked.pull * asked.wanted])
        return np.einsum("ksd,smd->smk", wishes, self.looks[item])

    def _taste(self, user: np.ndarray, ends: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(S, STYLE_DIM): mean look of what each user clicked last, older clicks fading, shrunk by PSEUDO_CLICKS."""
        behaviors = self.base.dataset.behaviors()
        offsets, items, ts = (np.asarray(a) for a in (behaviors.offsets, behaviors.item, behaviors.ts))
        found = np.zeros((len(user), self.looks.shape[1]))
        for row, (who, length, now) in enumerate(zip(user, ends, at, strict=True)):
            end = offsets[who] + length
            span = slice(max(offsets[who], end - LENGTH), end)
            weight = 0.5 ** ((now - ts[span]) / HALF_LIFE)
            found[row] = weight @ self.looks[items[span]] / (weight.sum() + PSEUDO_CLICKS)
        return found

    def pctr(self, users: Users, traffic: Traffic, rows: np.ndarray) -> np.ndarray:
        candidates, sessions = traffic.candidates[rows], traffic.sessions
        ends = self.base.dataset.history_ends(self.world.user_rows[sessions.user[rows]], sessions.at[rows])
        known = self.base.pctr(users, traffic, rows)
        told = self._told(users, traffic, rows, candidates, ends)
        logit = log_odds(known) * self.weights[0] + told @ self.weights[1:-1] + self.weights[-1]
        return np.where(candidates >= 0, 1 / (1 + np.exp(-logit)), 0.0)

    def act(self, user: np.ndarray, item: np.ndarray, ts: np.ndarray, action: np.ndarray) -> None:
        self.base.act(user, item, ts, action)


def log_odds(p: np.ndarray) -> np.ndarray:
    """Logits of probabilities, those of 0 and 1 finite."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))


def logistic(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(K + 1,) weights and intercept that make the labels (n,) of x (n, K) most likely; Newton's method."""
    wide = np.column_stack([x, np.ones(len(x))])
    weights = np.zeros(wide.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-wide @ weights))
        curve = (wide * (p * (1 - p))[:, None]).T @ wide + 1e-9 * np.eye(len(weights))
        step = np.linalg.solve(curve, wide.T @ (label - p))
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _mean(worlds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    return {step: {key: mean(w[step][key] for w in worlds) for key in worlds[0][step]} for step in worlds[0]}


def table(found: dict[str, Any]) -> Table:
    """The steps, means over worlds."""
    rows = [
        [step, cell(found["mean"][step]["lift"]), cell(found["mean"][step]["headroom"], "{:.0%}")]
        for step in (*STEPS, "oracle")
    ]
    note = f"{len(found['worlds'])} worlds, {found['days']} days, t intervals over worlds."
    return Table("Where the headroom is", note, ["told", "lift of true CTR", "headroom captured"], rows)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"headroom: {error}", file=sys.stderr)
        sys.exit(2)
