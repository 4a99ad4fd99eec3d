"""What a served model has to stand: load, a long time, too much load, death, and being replaced while it works."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.serving.load import Target, answer_of, closed_loop, open_loop
from experiments.serving.process import ServerProcess
from ranker.serving.model import Model
from ranker.serving.package import current_version, point
from ranker.serving.requests import request_of, requests_of

PATIENT = ("--longest-wait-ms", "1000")  # requests wait, none is refused
TOLERANCE = 1e-5  # of a score, between runs of one version
WATCH_SECONDS, RUSH_SECONDS = 2.0, 8.0


@dataclass
class Bench:
    """One server under test and what it is asked.

    Attributes:
        package: folder of the model, with the versions v00000001 and v00000002. messages: HTTP requests.
        expected: by version, the scores of every message.
    """

    package: Path
    messages: list[bytes]
    expected: dict[str, list[np.ndarray]]

    def target(self, server: ServerProcess) -> Target:
        """The requests to this server, every answer checked."""
        return Target(server.http, self.messages, self._check)

    def _check(self, number: int, head: dict[str, str], body: bytes) -> str:
        version, scores = answer_of(head, body)
        off = np.abs(scores - self.expected[version][number]).max()
        return "" if off <= TOLERANCE else f"message {number}: version {version} is off by {off:.1e}"


def scores_of(model: Model, requests: list[dict]) -> list[np.ndarray]:
    """Scores of each request."""
    return [model.score(request_of(model.package.signature, r)).probability for r in requests]


def load(bench: Bench, concurrencies: list[int], seconds: float) -> dict[str, Any]:
    """Closed loops of several sizes; the server lets them wait."""
    server = ServerProcess(bench.package, *PATIENT)
    asyncio.run(closed_loop(bench.target(server), 4, min(3.0, seconds)))
    found: dict[str, Any] = {
        str(c): asyncio.run(closed_loop(bench.target(server), c, seconds)).facts() for c in concurrencies
    }
    found["exit_status"] = server.stop()
    return found


def overload(bench: Bench, capacity: float, times: float, seconds: float) -> dict[str, Any]:
    """Requests at the server's capacity (a second) and at `times` as many, whether or not they are answered."""
    server = ServerProcess(bench.package)
    asyncio.run(closed_loop(bench.target(server), 4, min(3.0, seconds)))
    usual = asyncio.run(open_loop(bench.target(server), capacity, seconds))
    over = asyncio.run(open_loop(bench.target(server), capacity * times, seconds))
    found = {"capacity_per_second": capacity, "at_capacity": usual.facts(), f"at_{times:g}x": over.facts()}
    found["retry_after_on_every_429"] = over.retry_after == over.statuses.get(429, 0)
    found["p99_ratio"] = found[f"at_{times:g}x"]["p99_ms"] / found["at_capacity"]["p99_ms"]
    found["exit_status"] = server.stop()
    return found


def soak(bench: Bench, rate: float, seconds: float) -> dict[str, Any]:
    """A long time at a steady rate, after a rush that fills the batches: memory is as large then as it may get. The
    resident set is looked at throughout, the first tenth apart."""
    server = ServerProcess(bench.package, *PATIENT)
    asyncio.run(closed_loop(bench.target(server), 32, RUSH_SECONDS))
    resident: list[int] = []

    async def watched() -> Any:
        async def watch() -> None:
            while True:
                resident.append(server.resident_bytes())
                await asyncio.sleep(WATCH_SECONDS)

        watching = asyncio.create_task(watch())
        found = await open_loop(bench.target(server), rate, seconds)
        watching.cancel()
        return found

    found = asyncio.run(watched()).facts() | {"rate_per_second": rate, "seconds": seconds}
    after = resident[max(1, len(resident) // 10) :]
    tenths = [after[i * (len(after) - 1) // 9] / 2**20 for i in range(10)]
    found["resident_mib"] = {
        "after_a_tenth": tenths[0],
        "largest": max(after) / 2**20,
        "end": tenths[-1],
        "all": tenths,
    }
    found["exit_status"] = server.stop()
    return found


def restart(bench: Bench, times: int) -> dict[str, Any]:
    """kill -9 under load, and start again: seconds until it is ready, and whether the first answers are right."""
    seconds, wrong, server = [], 0, ServerProcess(bench.package)
    for _ in range(times):
        asyncio.run(_killed_under_load(bench, server))
        server = ServerProcess(bench.package)
        seconds.append(server.ready_seconds)
        first = asyncio.run(closed_loop(bench.target(server), 1, 0.01))
        wrong += len(first.wrong) + sum(n for status, n in first.statuses.items() if status != 200)
    return {"times": times, "ready_seconds": seconds, "wrong_first_answers": wrong, "exit_status": server.stop()}


async def _killed_under_load(bench: Bench, server: ServerProcess) -> None:
    asking = asyncio.create_task(closed_loop(bench.target(server), 4, 1.0))
    await asyncio.sleep(0.5)
    server.kill()
    await asking


def swap(bench: Bench, rate: float, seconds: float) -> dict[str, Any]:
    """Two versions take turns under load, every two seconds."""
    server = ServerProcess(bench.package, *PATIENT, "--poll-s", "0.2")
    names = ["v00000001", "v00000002"]
    versions: dict[str, int] = {}

    def count(number: int, head: dict[str, str], body: bytes) -> str:
        version = answer_of(head, body)[0]
        versions[version] = versions.get(version, 0) + 1
        return bench._check(number, head, body)

    async def swapped() -> Any:
        asking = asyncio.create_task(open_loop(Target(server.http, bench.messages, count), rate, seconds))
        turn = 0
        while not asking.done():
            await asyncio.sleep(2.0)
            turn += 1
            point(bench.package, names[turn % 2])
        return await asking

    found = asyncio.run(swapped()).facts() | {"answers_by_version": versions}
    found["swaps"] = sum(event["event"] == "model_swapped" for event in server.events)
    point(bench.package, names[0])
    found["exit_status"] = server.stop()
    return found


def two_versions(package: Path, copy: Path) -> Path:
    """The current version of a package in the folder `copy`, and beside it one whose scores are others (a table is
    shifted), which is returned."""
    first = shutil.copytree(current_version(package), copy / "v00000001")
    second = shutil.copytree(first, copy / "v00000002")
    largest = max((second / "tables").glob("*.npy"), key=lambda path: path.stat().st_size)
    table = np.load(largest, mmap_mode="r+")
    table += np.asarray(0.2 if table.dtype.kind == "f" else 9, table.dtype)
    table.flush()
    model = Model(second)
    requests = pl.read_parquet(second / "examples" / "requests.parquet")
    scores = model.score(requests_of(model.package.signature, requests)).probability
    pl.DataFrame({"score": scores}).write_parquet(second / "examples" / "scores.parquet")
    point(copy, first.name)
    return second


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
