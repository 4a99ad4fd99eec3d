"""What users will search for on the days played, embedded ahead of them; a server embeds a query when it comes."""

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from data.marketplace.catalogue import Items, make_items
from data.marketplace.config import Market
from data.marketplace.simulate import photo_key
from data.marketplace.studio import Studio
from data.marketplace.traffic import draw_traffic, users_by_day
from features.store import Store
from features.store_append import append
from moon_encoder.checkpoint import load_encoder
from moon_encoder.content import Content
from moon_encoder.embedding import embed


def add_later_queries(store: Path, encoder: Path, market: Market) -> None:
    """Append to a store of queries what is asked on the market's later days and is not in it; the encoder reads it.

    Raises InputError if another process changes the store meanwhile.
    """
    version, reader, items = Store(store).current, load_encoder(encoder), make_items(market)
    known, asked = {*version.item_ids.to_list()}, _asked(items, market)
    photos = {name: job for name, job in asked.items() if job and name not in known and "image" in reader.reads}
    texts = [name for name, job in asked.items() if not job and name not in known and "text" in reader.reads]
    with Studio(items, market) as studio:
        contents = [Content(image=Image.open(io.BytesIO(data)).convert("RGB")) for data in studio.draw(photos.values())]
    contents += [Content(text) for text in texts]
    rows = np.arange(len(contents))
    vectors, present, _ = embed(reader, lambda row: (contents[row], []), rows, version.meta["dim"])
    if present.any():
        append(store, version, pl.Series([*photos, *texts]).filter(pl.Series(present)), vectors[present])


def _asked(items: Items, market: Market) -> dict[str, tuple[int, int] | None]:
    """Id of every query -> (item on its photo, request), or None for a text."""
    found: dict[str, tuple[int, int] | None] = {}
    for day, users in users_by_day(market, market.days):
        if day == market.days + market.later_days:
            break
        for traffic in draw_traffic(items, users, market, day):
            query = traffic.sessions.query
            for text, item, request in zip(query.texts(items.looks), query.photographed, traffic.request, strict=True):
                found[text or photo_key(int(request))] = None if text else (int(item), int(request))
    return found
