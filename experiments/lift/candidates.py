"""`python -m experiments.lift.candidates TEST`: do offline figures tell how a ranker orders what it meets online?

Of every arm of an online test: GAUC of the test rows by user, as a run's figures have it, and within a search; then,
over all candidates of the first day's searches, with the true click probabilities in place of clicks, the expected AUC
within a search. The test rows are those that the logging policy picked, the candidates are all: where both agree within
a search, no selection stands between offline and online. `--store`: how much of the vectors' variance their items'
category explains, which cannot order the candidates of a search.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data.config import load_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from data.host import keep_freed_memory
from data.marketplace.utility import true_ctr
from experiments.lift.arms import Ranked
from experiments.lift.config import LiftConfig
from experiments.lift.estimates import mean_over
from experiments.lift.world import World, open_world
from experiments.page import Table, cell
from features.ranks import process_group
from features.store import Store
from ranker.metrics import gauc, group_aucs
from ranker.run_folder import RunFolder


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("python -m experiments.lift.candidates", description="Offline against online.")
    parser.add_argument("test", type=Path, help="an online test (YAML), as for moon lift; its control comes first")
    parser.add_argument("--store", type=Path, help="store of the vectors that the arms read")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    keep_freed_memory()
    test = load_config(args.test, LiftConfig)
    found = compared(test)
    print(table(found).markdown())
    if args.store:
        found["category_share"] = category_share(args.store, test.data)
        print(f"\nvariance of the vectors that the category explains: {found['category_share']:.1%}")
    if args.json:
        write_json(args.json, found)
    return 0


def compared(test: LiftConfig) -> dict[str, Any]:
    """{arms: name -> figures, differences: name -> what it has over the control within a search, with intervals}.

    Raises InputError if the control is no trained arm.
    """
    if test.control not in test.arms:
        raise InputError(f"control {test.control!r} is no trained ranker; name one of arms")
    world = open_world(test.logs, test.data)
    rows = Dataset(test.data).samples("test").select("user", "request_id").collect()
    user, search = rows["user"].to_numpy(), rows["request_id"].to_numpy()
    arms, offline, online = {}, {}, {}
    for name, arm in test.arms.items():
        run = RunFolder(arm.run)
        found = run.read_predictions("test")
        label, score = found["label"].to_numpy(), found["score"].to_numpy()
        offline[name] = group_aucs(label, score, search)[2]
        with process_group() as ranks:
            online[name], who = expected_aucs(world, Ranked(world, run, ranks, world.market.days), test.replay)
        arms[name] = {
            "gauc": gauc(label, score, user).value,
            "gauc_search": gauc(label, score, search).value,
            "candidates": float(np.mean(online[name])),
        }
    _, first, count = np.unique(search, return_index=True, return_counts=True)
    both = np.isfinite(offline[test.control])
    differences = {}
    for name in (name for name in test.arms if name != test.control):
        gains = (offline[name] - offline[test.control])[both]
        differences[name] = {
            "gauc_search": _over_users(gains, count[both], user[first][both]),
            "candidates": _over_users(online[name] - online[test.control], np.ones(len(who)), who),
        }
    return {"control": test.control, "arms": arms, "differences": differences}


def _over_users(gains: np.ndarray, weight: np.ndarray, user: np.ndarray) -> dict[str, float | None]:
    return mean_over(np.bincount(user, weight * gains), np.bincount(user, weight)).as_dict()


def expected_aucs(world: World, arm: Ranked, replay: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,) expected AUC of an arm over the candidates of each search of the first day after the logs; its users (S,).

    That of a pair of candidates i, j counts p_i (1 - p_j): i is clicked and j is not.
    """
    found, who, day = [], [], world.market.days
    for users, traffic in world.traffic(range(day, day + 1), replay):
        sessions, items = traffic.sessions, traffic.candidates
        chance = true_ctr(world.items, users, world.market, sessions.user, sessions.query, items, 0)
        score = arm.pctr(users, traffic, np.arange(len(items)))
        found.append(_expected(score, np.where(items >= 0, chance, np.nan)))
        who.append(sessions.user)
    return np.concatenate(found), np.concatenate(who)


def _expected(score: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(S,) from (S, M) each; chance NaN: no candidate."""
    found = np.empty(len(score))
    for row, (s, p) in enumerate(zip(score, chance, strict=True)):
        there = np.isfinite(p)
        s, p = s[there], p[there]
        pairs = np.outer(p, 1 - p)
        np.fill_diagonal(pairs, 0)
        won = (s[:, None] > s) + 0.5 * (s[:, None] == s)
        found[row] = (pairs * won).sum() / pairs.sum()
    return found


def category_share(store: Path, data: Path) -> float:
    """Share of the vectors' variance between categories, of all."""
    category = Dataset(data).items().select("category").collect()["category"].rank("dense").to_numpy() - 1
    vectors, _ = Store(store).current.vectors(np.arange(len(category)))
    vectors = vectors.astype(np.float64)
    means = np.stack([vectors[category == c].mean(0) for c in range(int(category.max()) + 1)])
    return float(((means[category] - vectors.mean(0)) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def table(found: dict[str, Any]) -> Table:
    """The arms, and what each has over the control."""
    rows = []
    for name, arm in found["arms"].items():
        more = found["differences"].get(name, {})
        cells = [f"{arm[key]:.4f}" for key in ("gauc", "gauc_search", "candidates")]
        rows.append([name, *cells, *(cell(more[k], "{:+.4f}") if more else "-" for k in ("gauc_search", "candidates"))])
    over = f"over {found['control']}"
    head = [
        "arm",
        "GAUC by user",
        "within a search",
        "all candidates",
        f"within a search, {over}",
        f"candidates, {over}",
    ]
    return Table("Offline and all candidates", "Intervals over users, left out one by one.", head, rows)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"candidates: {error}", file=sys.stderr)
        sys.exit(2)
