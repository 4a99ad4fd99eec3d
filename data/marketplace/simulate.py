"""`simulate`: day by day into ordinary raw logs with a column map that `moon prepare tabular` reads."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from data.errors import InputError
from data.marketplace.catalogue import CATEGORIES, Items, make_items, sku_names
from data.marketplace.config import Market
from data.marketplace.exposure import retrieve, show
from data.marketplace.render import PhotoTar, catalogue_photo, query_photo
from data.marketplace.sessions import DAY, Sessions, draw_sessions
from data.marketplace.users import Users, make_users
from data.marketplace.utility import true_ctr
from data.progress import Progress

PRIOR_IMPRESSIONS = 50.0


def simulate(market: Market, out: Path) -> Path:
    """Write impressions/, actions/, items.parquet, users.parquet, photos.tar, queries.tar and columns.yaml under `out`.

    The folder appears when it is complete. Memory is bounded by a day.
    Raises InputError if `out` exists, or if a category has too few items on the first day.
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
        (building / "columns.yaml").write_text(yaml.safe_dump(column_map(), sort_keys=False))
        with PhotoTar(building / "photos.tar") as photos:
            for item, key in enumerate(items.frame()["photo"]):
                photos.add(key, catalogue_photo(items, item, market.image_size, market.seed))
        seen = np.zeros((2, len(items)))
        progress = Progress("simulating", market.days * market.sessions_per_day * market.slots)
        with PhotoTar(building / "queries.tar") as queries:
            for day in range(market.days):
                impressions, actions = _day(items, users, market, day, seen, queries)
                impressions.write_parquet(building / "impressions" / f"day-{day:03d}.parquet")
                actions.write_parquet(building / "actions" / f"day-{day:03d}.parquet")
                users = users.next_day(market, day)
                progress.add(len(impressions))
        progress.close()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def _day(
    items: Items, users: Users, market: Market, day: int, seen: np.ndarray, queries: PhotoTar
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One day's impressions and actions; `seen` (impressions, clicks by item) is what the logging policy knows."""
    rng = np.random.default_rng([market.seed, 5, day])
    sessions = draw_sessions(items, users, market, day, rng)
    candidates = retrieve(items, market, day, sessions.query, rng)
    prior = PRIOR_IMPRESSIONS * market.ctr
    rate = (seen[1] + prior) / (seen[0] + PRIOR_IMPRESSIONS)
    shown = show(candidates, np.log(rate / (1 - rate))[candidates], market, rng)
    slot = np.arange(market.slots)
    clicked = rng.random(shown.item.shape) < true_ctr(
        items, users, market, sessions.user, sessions.query, shown.item, slot
    )
    np.add.at(seen[0], shown.item, 1)
    np.add.at(seen[1], shown.item[clicked], 1)
    request = day * len(sessions.at) + np.arange(len(sessions.at))
    ts, uid = np.repeat(sessions.at, market.slots), np.repeat(sessions.user, market.slots)
    log = pl.DataFrame(
        {
            "time": ts,
            "uid": uid,
            "sku": sku_names(shown.item.ravel()),
            "request": np.repeat(request, market.slots),
            "slot": np.tile(slot + 1, len(request)),
            "p_shown": shown.propensity.ravel(),
            "hour": (ts % DAY) // 3600,
            "clicked": clicked.ravel().astype(np.int8),
        }
    )
    asked = pl.DataFrame(
        {
            "request": request,
            "query": pl.Series(sessions.query.texts(), dtype=pl.String),
            "query_photo": pl.Series(_query_photos(items, market, sessions, request, queries), dtype=pl.String),
        }
    )
    log = log.join(asked, on="request", how="left", maintain_order="left")
    return log, _actions(log.filter(pl.col("clicked") == 1), market, rng)


def _query_photos(
    items: Items, market: Market, sessions: Sessions, request: np.ndarray, tar: PhotoTar
) -> list[str | None]:
    """Keys of the sessions' query photos, which go into `tar`; None for a text query."""
    keys: list[str | None] = [None] * len(request)
    for row in np.flatnonzero(sessions.query.photographed >= 0).tolist():
        keys[row] = f"query-{request[row]:08d}.jpg"
        rng = np.random.default_rng([market.seed, 6, int(request[row])])
        photo = query_photo(items, int(sessions.query.photographed[row]), market.image_size, rng)
        tar.add(f"query-{request[row]:08d}.jpg", photo, quality=75)
    return keys


def _actions(clicks: pl.DataFrame, market: Market, rng: np.random.Generator) -> pl.DataFrame:
    """Clicks a few seconds after the impression, then carts and orders minutes later."""
    carts = clicks.filter(pl.Series(rng.random(len(clicks)) < market.cart_rate))
    orders = carts.filter(pl.Series(rng.random(len(carts)) < market.order_rate))
    frames = [
        rows.select(
            pl.col("time") + pl.Series(rng.integers(low, high, len(rows))),
            "uid",
            "sku",
            "request",
            pl.lit(name).alias("action"),
        )
        for name, rows, low, high in (("click", clicks, 2, 60), ("cart", carts, 60, 600), ("order", orders, 600, 3600))
    ]
    return pl.concat(frames).sort("time", "uid", "sku", "action")


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
            "query_image": "query_photo",
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
        "images": [
            {"kind": "tar", "path": "photos.tar", "role": "item"},
            {"kind": "tar", "path": "queries.tar", "role": "query"},
        ],
        "split": {"rule": "temporal", "train": 0.7, "valid": 0.15},
    }
