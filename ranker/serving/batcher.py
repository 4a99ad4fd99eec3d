"""Micro-batching with a latency bound and back-pressure: requests that wait are scored together, too many are refused.

A request keeps the model that it came to: it is scored by that one whatever is loaded meanwhile.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from ranker.serving.model import Model
from ranker.serving.requests import Requests

FIXED = 50  # candidates that cost as much as what a request costs whatever its size
FIRST_COST = 50e-6  # seconds a candidate, before anything was measured
MEMORY = 0.05  # share of the newest measurement in the running mean
PADDING = 2.0  # candidates of a batch, each request's padded to the largest one's, by those that there are
OUTLIER = 2.0  # a measurement counts as this many means at most: a machine that stalled says nothing of the next batch


class Busy(Exception):
    """More work waits than can be done in time; `retry_after` seconds from now it may fit."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"busy: {wait * 1e3:.0f} ms of work before this request; try again later")
        self.retry_after = max(1, math.ceil(wait))


@dataclass(frozen=True)
class Answer:
    """Scores of one request. score: (C,) float32. unknown, missing: counts of its ids that the model did not know."""

    score: np.ndarray
    version: str
    vectors: dict[str, int]
    unknown_user: bool
    unknown_items: int
    missing: dict[str, int]


@dataclass
class _Job:
    model: Model
    request: Requests
    arrived: float
    done: "Future[Answer]" = field(default_factory=Future)

    @property
    def work(self) -> int:
        return FIXED + len(self.request.item)


class Batcher:
    """Worker threads that score what waits, oldest first.

    A worker that is free takes its share of what waits at once (or after `delay`, for company), so batches grow with
    the load and a lone request never waits for others that do not come. Requests are padded to the largest
    of their batch (ranker.over_history).
    """

    def __init__(
        self, workers: int, delay: float, longest_wait: float, batch: int, warm: Callable[[], None] = lambda: None
    ) -> None:
        """`delay`: seconds that a request may wait for company. `longest_wait`: seconds of waiting work beyond which a
        new request is refused. `batch`: candidates scored together at most. `warm`: called first by every worker."""
        self.workers, self.delay, self.longest_wait, self.batch = workers, delay, longest_wait, batch
        self._warm = warm
        self.batches = self.batched = 0
        self._cost = FIRST_COST
        self._jobs: deque[_Job] = deque()
        self._waiting = self._running = 0  # units of work
        self._stopped = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"scorer-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._jobs)

    def admit(self) -> None:
        """Raise Busy if a request that came now would wait too long."""
        wait = (self._waiting + self._running / 2) * self._cost / self.workers  # what runs is half done, on average
        if self._stopped or wait > self.longest_wait:
            raise Busy(wait)

    async def score(self, model: Model, request: Requests) -> Answer:
        """The answer to one request. Raises Busy, or what scoring raises."""
        job = _Job(model, request, time.monotonic())
        with self._changed:
            self.admit()
            self._jobs.append(job)
            self._waiting += job.work
            self._changed.notify()
        return await asyncio.wrap_future(job.done)

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)
        self._warm()
        while jobs := self._next():
            started, work = time.monotonic(), sum(job.work for job in jobs)
            wanted = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            if wanted:
                _answer(wanted)
            took = time.monotonic() - started
            with self._changed:
                self._running -= work
                if wanted:
                    cost = took / sum(job.work for job in wanted)
                    self._cost += MEMORY * (min(cost, OUTLIER * self._cost) - self._cost)
                    self.batches, self.batched = self.batches + 1, self.batched + len(wanted)

    def _next(self) -> list[_Job]:
        """The next jobs, of one model; empty at the end."""
        with self._changed:
            while True:
                if self._jobs:
                    left = self._jobs[0].arrived + self.delay - time.monotonic()
                    if self._stopped or left <= 0 or self._waiting >= self.batch:
                        return self._take()
                    self._changed.wait(left)
                elif self._stopped:
                    return []
                else:
                    self._changed.wait()

    def _take(self) -> list[_Job]:
        """This worker's share of what waits: at least one job, at most `batch` candidates if all jobs were as large as
        the largest of them, and at most PADDING times what they are."""
        share, jobs = self._waiting / self.workers, [self._jobs.popleft()]
        work = largest = jobs[0].work
        while self._jobs and self._jobs[0].model is jobs[0].model:
            work, largest = work + self._jobs[0].work, max(largest, self._jobs[0].work)
            if work > share or (len(jobs) + 1) * largest > min(self.batch, PADDING * work):
                work -= self._jobs[0].work
                break
            jobs.append(self._jobs.popleft())
        self._waiting -= work
        self._running += work
        return jobs


def _answer(jobs: list[_Job]) -> None:
    """Score jobs together; if that fails, each alone, so that one bad request harms no other."""
    try:
        answers = _score(jobs)
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].done.set_exception(error)
        else:
            for job in jobs:
                _answer([job])
        return
    for job, answer in zip(jobs, answers, strict=True):
        job.done.set_result(answer)


def _score(jobs: list[_Job]) -> list[Answer]:
    model = jobs[0].model
    found = model.score(Requests.joined([job.request for job in jobs]))
    ends = np.cumsum([len(job.request.item) for job in jobs])
    unknown = found.unknown
    return [
        Answer(
            score.astype(np.float32),
            model.version,
            found.vectors,
            bool(unknown.user[i]),
            int(unknown.candidates[i]),
            {name: int(counts[i]) for name, counts in unknown.missing.items()},
        )
        for i, score in enumerate(np.split(found.probability, ends[:-1]))
    ]
