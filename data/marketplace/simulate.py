"""`simulate`: day by day into ordinary raw logs with a column map that `moon prepare tabular` reads."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import yaml

from data.errors import InputError
from data.marketplace.catalogue import Items, make_items, sku_names
from data.marketplace.config import MARKET_FILE, Market
from data.marketplace.exposure import charges, draw
from data.marketplace.render import PhotoTar
from data.marketplace.response import ACTIONS, Response, respond
from data.marketplace.sessions import DAY
from data.marketplace.studio import Studio
from data.marketplace.traffic import Traffic, draw_traffic, users_by_day
from data.marketplace.users import Users, make_users
from data.marketplace.utility import true_ctr
from data.progress import Progress

PRIOR_IMPRESSIONS = 50.0


class ClickRates:
    """What the logging policy knows: smoothed click rates of items, renewed every night."""

    def __init__(self, items: int, market: Market) -> None:
        self.first_guess = market.ctr
        self.shown, self.clicked = np.zeros((2, items))
        self._today = np.zeros((2, items))

    def rate(self) -> np.ndarray:
        """(items,) click rate of each item up to last night; an unknown one passes for an average one."""
        mean = self.clicked.sum() / self.shown.sum() if self.shown.any() else self.first_guess
        return (self.clicked + PRIOR_IMPRESSIONS * mean) / (self.shown + PRIOR_IMPRESSIONS)

    def see(self, item: np.ndarray, clicked: np.ndarray) -> None:
        """Count impressions; they enter the rates at night."""
        np.add.at(self._today[0], item, 1)
        np.add.at(self._today[1], item[clicked], 1)

    def night(self) -> None:
        """The day ends."""
        self.shown += self._today[0]
        self.clicked += self._today[1]
        self._today[:] = 0


def simulate(market: Market, out: Path) -> Path:
    """Write impressions/, actions/, items.parquet, users.parquet, photos.tar, queries.tar, columns.yaml and
    market.yaml under `out`.

    The folder appears when it is complete. Memory is bounded by a part of a day.
    Raises InputError if `out` exists, if a category has too few items on the first day, or for real photos that are
    not there.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a folder that does not")
    items = make_items(market)
    fewest = min(len(items.alive(category, 0)) for category in range(len(items.looks.categories)))
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
        make_users(market).frame().write_parquet(building / "users.parquet")
        (building / "columns.yaml").write_text(yaml.safe_dump(column_map(), sort_keys=False))
        (building / MARKET_FILE).write_text(yaml.safe_dump(market.model_dump(), sort_keys=False))
        with Studio(items, market) as studio:
            _photograph(items, studio, building)
            _run(items, market, studio, building)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def _photograph(items: Items, studio: Studio, folder: Path) -> None:
    keys = items.frame()["photo"].to_list()
    progress = Progress("drawing photos", len(keys))
    with PhotoTar(folder / "photos.tar") as photos:
        for key, data in zip(keys, studio.draw((item, None) for item in range(len(items))), strict=True):
            photos.add(key, data)
            progress.add(1)
    progress.close()


def _run(items: Items, market: Market, studio: Studio, folder: Path) -> None:
    rates = ClickRates(len(items), market)
    progress = Progress("simulating", market.days * market.sessions_per_day * market.slots)
    with PhotoTar(folder / "queries.tar") as queries:
        for day, users in users_by_day(market):
            if day == market.days:
                break
            parts = (
                log_part(items, users, market, traffic, rates) for traffic in draw_traffic(items, users, market, day)
            )
            writers: dict[str, pq.ParquetWriter] = {}
            try:
                for traffic, *frames in parts:
                    for name, frame in zip(("impressions", "actions"), frames, strict=True):
                        table = frame.to_arrow()
                        if name not in writers:
                            writers[name] = pq.ParquetWriter(folder / name / f"day-{day:03d}.parquet", table.schema)
                        writers[name].write_table(table)
                    asked = np.flatnonzero(traffic.sessions.query.photographed >= 0)
                    item, request = traffic.sessions.query.photographed[asked], traffic.request[asked]
                    jobs = list(zip(item.tolist(), request.tolist(), strict=True))
                    for (_, number), data in zip(jobs, studio.draw(jobs), strict=True):
                        queries.add(photo_key(number), data)
                    progress.add(len(frames[0]))
            finally:
                for writer in writers.values():
                    writer.close()
            rates.night()
    progress.close()


def log_part(
    items: Items, users: Users, market: Market, traffic: Traffic, rates: ClickRates
) -> tuple[Traffic, pl.DataFrame, pl.DataFrame]:
    """The logging policy at work on a part of a day: the part, its impressions, its actions; `rates` learn."""
    pctr = rates.rate()[traffic.candidates]
    score = np.log(items.bid[traffic.candidates] * pctr)
    rng = np.random.default_rng([market.seed, 8, int(traffic.request[0])])
    shown = draw(traffic.candidates, score, market, rng)
    sessions = traffic.sessions
    slot = np.arange(market.slots)
    chance = true_ctr(items, users, market, sessions.user, sessions.query, shown.item, slot)
    response = respond(traffic.luck, shown.place, chance, market)
    rates.see(shown.item, response.done[0])
    price = charges(traffic.candidates, shown.place, pctr, items)
    log = impressions(items, market, traffic, shown.item).with_columns(
        p_shown=shown.propensity.ravel(),
        clicked=response.done[0].ravel().astype(np.int8),
        bid=items.bid[shown.item].ravel(),
        charge=np.where(response.done[0], price, 0.0).ravel(),
    )
    return traffic, log, actions(traffic, shown.item, response)


def impressions(items: Items, market: Market, traffic: Traffic, item: np.ndarray) -> pl.DataFrame:
    """One row an impression of items (S, slots): all that is known before anybody clicks."""
    sessions, slots = traffic.sessions, item.shape[1]
    ts = np.repeat(sessions.at, slots)
    query = sessions.query
    photos = [photo_key(r) if p >= 0 else None for r, p in zip(traffic.request, query.photographed, strict=True)]
    row = np.repeat(np.arange(len(sessions.at)), slots)
    return pl.DataFrame(
        {
            "time": ts,
            "uid": np.repeat(sessions.user, slots),
            "sku": sku_names(item.ravel()),
            "request": np.repeat(traffic.request, slots),
            "slot": np.tile(np.arange(1, slots + 1), len(item)),
            "hour": (ts - market.first_day) % DAY // 3600,
            "query": pl.Series(query.texts(items.looks), dtype=pl.String).gather(row),
            "query_photo": pl.Series(photos, dtype=pl.String).gather(row),
        }
    )


def photo_key(request: int) -> str:
    """Key of the photo that a session searched with."""
    return f"query-{request:08d}.jpg"


def actions(traffic: Traffic, item: np.ndarray, response: Response) -> pl.DataFrame:
    """Clicks some seconds after the impressions, then carts and orders, in order of time."""
    code, session, slot = np.nonzero(response.done)
    time = traffic.sessions.at[session] + response.delay[code, session, slot]
    frame = pl.DataFrame(
        {
            "time": time,
            "uid": traffic.sessions.user[session],
            "sku": pl.Series(sku_names(item[session, slot]), dtype=pl.String),
            "request": traffic.request[session],
            "action": pl.Series([ACTIONS[c] for c in code.tolist()], dtype=pl.String),
        }
    )
    return frame.sort("time", "uid", "sku", "action")


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
        "behaviors": [{"action": a, **actions, "when": f"action == {a}"} for a in ACTIONS],
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
