"""`simulate`: day by day into ordinary raw logs with a column map that `moon prepare tabular` reads."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from data.errors import InputError
from data.marketplace.catalogue import CATEGORIES, COLOURS, Items, make_items
from data.marketplace.config import Market
from data.marketplace.exposure import retrieve, show, true_ctr
from data.marketplace.render import write_photos
from data.marketplace.users import Users, make_users
from data.progress import Progress

DAY = 86_400
PRIOR_IMPRESSIONS = 50.0


def simulate(market: Market, out: Path) -> Path:
    """Write impressions/, actions/, items.parquet, users.parquet, photos.tar and columns.yaml under `out`.

    The folder appears when it is complete. Memory is bounded by a day.
    Raises InputError if `out` exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a folder that does not")
    items, users = make_items(market), make_users(market)
    fewest = np.bincount(items.category[items.born == 0], minlength=len(CATEGORIES)).min()
    if fewest < market.slots:
        raise InputError(
            f"items = {market.items}: a category starts with {fewest} items, {market.slots} slots need more"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.with_name(f".{out.name}.building-{os.getpid()}")
    try:
        for folder in ("impressions", "actions"):
            (building / folder).mkdir(parents=True)
        items.frame().write_parquet(building / "items.parquet")
        users.frame().write_parquet(building / "users.parquet")
        write_photos(items, market, building / "photos.tar")
        (building / "columns.yaml").write_text(yaml.safe_dump(column_map(), sort_keys=False))
        seen = np.zeros((2, len(items)))
        progress = Progress("simulating", market.days * market.sessions_per_day * market.slots)
        for day in range(market.days):
            impressions, actions = _day(items, users, market, day, seen)
            impressions.write_parquet(building / "impressions" / f"day-{day:03d}.parquet")
            actions.write_parquet(building / "actions" / f"day-{day:03d}.parquet")
            users = users.next_day(market, day)
            progress.add(len(impressions))
        progress.close()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def _day(items: Items, users: Users, market: Market, day: int, seen: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One day's impressions and actions; `seen` (impressions, clicks by item) is what the logging policy knows."""
    rng = np.random.default_rng([market.seed, 5, day])
    count = market.sessions_per_day
    user = rng.choice(market.users, count, p=users.activity)
    at = market.first_day + day * DAY + np.sort(rng.integers(0, DAY, count))
    wish = np.exp(users.category[user])
    category = (np.cumsum(wish, 1) > rng.random((count, 1)) * wish.sum(1, keepdims=True)).argmax(1)
    candidates = retrieve(items, day, category, market.candidates, rng)
    prior = PRIOR_IMPRESSIONS * market.ctr
    rate = (seen[1] + prior) / (seen[0] + PRIOR_IMPRESSIONS)
    score = np.log(rate / (1 - rate))[candidates]
    shown = show(candidates, score, market, rng)
    slot = np.broadcast_to(np.arange(shown.item.shape[1]), shown.item.shape)
    who = np.broadcast_to(user[:, None], shown.item.shape)
    clicked = rng.random(shown.item.shape) < true_ctr(items, users, market, who, shown.item, slot)
    np.add.at(seen[0], shown.item, 1)
    np.add.at(seen[1], shown.item[clicked], 1)
    flat = {name: np.ravel(values) for name, values in (("item", shown.item), ("user", who), ("slot", slot))}
    ts = np.repeat(at, shown.item.shape[1])
    text = _queries(category, rng)
    impressions = pl.DataFrame(
        {
            "time": ts,
            "uid": flat["user"],
            "sku": _skus(flat["item"]),
            "request": np.repeat(day * count + np.arange(count), shown.item.shape[1]),
            "slot": flat["slot"] + 1,
            "p_shown": np.ravel(shown.propensity),
            "query": np.repeat(text, shown.item.shape[1]),
            "hour": (ts % DAY) // 3600,
            "clicked": np.ravel(clicked).astype(np.int8),
        }
    )
    return impressions, _actions(ts, flat, np.ravel(clicked), market, rng)


def _actions(
    ts: np.ndarray, flat: dict[str, np.ndarray], clicked: np.ndarray, market: Market, rng: np.random.Generator
) -> pl.DataFrame:
    """Clicks a few seconds after the impression, then carts and orders minutes later."""
    at = np.flatnonzero(clicked)
    cart = at[rng.random(len(at)) < market.cart_rate]
    order = cart[rng.random(len(cart)) < market.order_rate]
    frames = []
    for name, rows, low, high in (("click", at, 2, 60), ("cart", cart, 60, 600), ("order", order, 600, 3600)):
        delay = rng.integers(low, high, len(rows))
        frames.append(
            pl.DataFrame(
                {
                    "time": ts[rows] + delay,
                    "uid": flat["user"][rows],
                    "sku": _skus(flat["item"][rows]),
                    "action": [name] * len(rows),
                },
                schema={"time": pl.Int64, "uid": pl.Int64, "sku": pl.String, "action": pl.String},
            )
        )
    return pl.concat(frames).sort("time", "uid", "sku")


def _queries(category: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Search texts: the category, now and then with a colour."""
    colour = rng.integers(0, 3 * len(COLOURS), len(category))
    words = np.array([f"{COLOURS[c]} " if c < len(COLOURS) else "" for c in range(3 * len(COLOURS))])[colour]
    return np.char.add(words, np.array(CATEGORIES)[category])


def _skus(item: np.ndarray) -> list[str]:
    return [f"sku-{i:06d}" for i in item.tolist()]


def column_map() -> dict:
    """The column map of the logs that `simulate` writes."""
    actions = {"files": "actions/*.parquet", "user": "uid", "item": "sku", "ts": "time"}
    return {
        "name": "marketplace",
        "impressions": {
            "files": "impressions/*.parquet",
            "user": "uid",
            "item": "sku",
            "ts": "time",
            "label": "clicked",
            "request_id": "request",
            "position": "slot",
            "propensity": "p_shown",
            "query": "query",
            "context": {"hour": "whole"},
        },
        "behaviors": [{"action": a, **actions, "when": f"action == {a}"} for a in ("click", "cart", "order")],
        "catalogue": {
            "files": "items.parquet",
            "item": "sku",
            "title": "name",
            "category": "category",
            "seller": "shop",
            "price": "price",
            "image_key": "photo",
            "columns": ["spu"],
        },
        "users": {"files": "users.parquet", "user": "uid", "columns": ["region"]},
        "images": [{"kind": "tar", "path": "photos.tar"}],
        "split": {"rule": "temporal", "train": 0.7, "valid": 0.15},
    }
