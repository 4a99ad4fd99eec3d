"""Drawing many photos, on all cores where they are many; the result does not depend on the number of cores."""

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType

import numpy as np

from data.images import TarImages
from data.marketplace.catalogue import Items
from data.marketplace.config import Market
from data.marketplace.looks import Looks
from data.marketplace.photographed import foreground, read_photo
from data.marketplace.render import before_another_background, catalogue_photo, jpeg, query_photo, snapshot

WORTH_A_POOL = 3000  # photos; fewer are drawn before the processes have started
AHEAD = 512

_world: tuple[Looks, Market, TarImages | None] | None = None


class Studio:
    """Draws the photos of a world. A context manager."""

    def __init__(self, items: Items, market: Market) -> None:
        self.items, self.market = items, market
        photos = len(items) + market.image_queries * market.sessions_per_day * market.days
        self._stack, self._pool = ExitStack(), None
        if photos >= WORTH_A_POOL and (os.cpu_count() or 1) > 1:
            pool = ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_hire, initargs=(items, market))
            self._pool = self._stack.enter_context(pool)

    def __enter__(self) -> "Studio":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def draw(self, jobs: Iterable[tuple[int, int | None]]) -> Iterator[bytes]:
        """JPEGs of jobs (item, request), in their order; request None: the shop's photo, else that session's query."""
        jobs = iter(jobs)
        if self._pool is None:
            _open_world(self.items, self.market)
            yield from map(_draw, jobs)
            return
        while batch := list(islice(jobs, AHEAD)):
            yield from self._pool.map(_draw, batch, chunksize=16)


def _hire(items: Items, market: Market) -> None:
    """Begin as a process of the pool, which ends with its parent, be that by kill -9."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    _open_world(items, market)


def _open_world(items: Items, market: Market) -> None:
    global _world
    tar = None if market.photos is None else TarImages(Path(market.photos) / "images.tar")
    _world = items.looks, market, tar


def _draw(job: tuple[int, int | None]) -> bytes:
    assert _world is not None
    (looks, market, tar), (item, request) = _world, job
    rng = np.random.default_rng([market.seed, 6, request or 0])
    if tar is None:
        if request is None:
            return jpeg(catalogue_photo(looks, item, market.image_size, market.seed), 88)
        return jpeg(query_photo(looks, item, market.image_size, rng), 75)
    if request is None:
        return tar.read(looks.files[item])
    photo = read_photo(tar, looks.files[item], market.image_size)
    return jpeg(snapshot(before_another_background(photo, foreground(photo), rng), rng), 75)
