"""Open Bandit: one policy's click rate from the other's log, beside what it was when it ran."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from data.sources.open_bandit import POLICIES, USER_FEATURES, OpenBandit
from experiments.ope.config import OpenBanditLog
from experiments.ope.estimators import Logged

FOLDS = 3
REGULARISATION = 0.1  # inverse strength; 46 and 69 clicks do not bear more


def logged_by_the_other(config: OpenBanditLog) -> tuple[Logged, dict[str, Any]]:
    """The decisions of the other policy's log, and the target's own click rate with its Wilson interval.

    `random` shows each of the 34 items with probability 1/34, exactly. `bts` was renewed while it ran and does not
    look at users: it enters as its mean over the week, the share of each item at each position of its own log.
    """
    (other,) = (policy for policy in POLICIES if policy != config.target)
    log, own = read(config.root, other), read(config.root, config.target)
    items = int(log["item_id"].max()) + 1  # pyright: ignore[reportOperatorIssue, reportArgumentType]
    item, position = log["item_id"].to_numpy(), log["position"].to_numpy()
    chance = np.full((items, 4), 1 / items) if config.target == "random" else shares(own, items)
    reward = log["click"].to_numpy().astype(np.float64)
    expected = click_model(log, reward, items)
    rows = np.arange(len(log))
    logged = Logged(
        reward=reward,
        ratio=chance[item, position] / log["propensity"].to_numpy(),
        before=np.ones(len(log)),
        model=expected[rows, item],
        value=(expected * chance[:, position].T).sum(1),
        slot=np.zeros(len(log), np.int64),
        cluster=rows,
    )
    clicks = int(own["click"].sum())
    wilson = stats.binomtest(clicks, len(own)).proportion_ci(method="wilson")
    truth = {"value": clicks / len(own), "low": float(wilson.low), "high": float(wilson.high)}
    return logged, {"target": config.target, "logging": other, "rows": len(log), "clicks": int(reward.sum())} | {
        "truth": truth
    }


def read(root: Path, policy: str) -> pl.DataFrame:
    """All rows of a policy's log."""
    return pl.concat([chunk.frame for chunk in OpenBandit(root, policy).chunks()]).rename({"label": "click"})


def shares(log: pl.DataFrame, items: int) -> np.ndarray:
    """(items, positions from 0) share of each item among a position's impressions; 0 for a position never shown."""
    counts = np.zeros((items, 4))
    np.add.at(counts, (log["item_id"].to_numpy(), log["position"].to_numpy()), 1)
    return counts / np.maximum(counts.sum(0), 1)


def click_model(log: pl.DataFrame, reward: np.ndarray, items: int) -> np.ndarray:
    """(n, items) click probability of every item in each row's place: logistic on item, position, user features and
    past clicks of the user on the item, each row by a model that has not seen its third of the log."""
    users = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit_transform(
        log.select(USER_FEATURES).to_numpy()
    )
    position = np.eye(4)[log["position"].to_numpy()]
    affinity = log.select(f"affinity_{i}" for i in range(items)).to_numpy()
    item, rows = log["item_id"].to_numpy(), np.arange(len(log))
    shown = np.column_stack([np.eye(items)[item], position, users, affinity[rows, item]])
    fold = np.random.default_rng(0).permutation(len(log)) % FOLDS
    expected = np.empty((len(log), items))
    for number in range(FOLDS):
        model = LogisticRegression(C=REGULARISATION, max_iter=1000).fit(shown[fold != number], reward[fold != number])
        held = fold == number
        by_item, rest = model.coef_[0, :items], model.coef_[0, items:-1]
        context = np.column_stack([position, users])[held] @ rest + model.intercept_[0]
        logit = context[:, None] + by_item + model.coef_[0, -1] * affinity[held]
        expected[held] = 1 / (1 + np.exp(-logit))
    return expected
