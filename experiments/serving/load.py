"""A load generator for an inference server over HTTP: closed loops and open loops, many connections in one thread.

Its work a request is one write and one read of bytes that were made before: it takes little of the cores that it
shares with the server.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HUNG = 30.0  # seconds without an answer


@dataclass
class Outcomes:
    """What became of the requests of one run.

    Attributes:
        seconds: latency of every request with status 200, from when it was due.
        statuses: count by status; 0 for a connection that broke, -1 for a request that hung.
        wrong: answers that `check` did not like. took: seconds of the whole run.
        retry_after: refusals that say when to try again.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    took: float = 0.0
    retry_after: int = 0

    def facts(self) -> dict[str, Any]:
        """Figures for people and files."""
        ms = np.array(self.seconds) * 1e3 if self.seconds else np.array([np.nan])
        return {
            "requests": sum(self.statuses.values()),
            "answered": len(self.seconds),
            "refused_429": self.statuses.get(429, 0),
            "failed": sum(n for status, n in self.statuses.items() if status not in (200, 429)),
            "hung": self.statuses.get(-1, 0),
            "wrong": len(self.wrong),
            "answered_per_second": len(self.seconds) / self.took,
            "p50_ms": float(np.percentile(ms, 50)),
            "p99_ms": float(np.percentile(ms, 99)),
            "max_ms": float(ms.max()),
        }


@dataclass(frozen=True)
class Target:
    """Where the requests go. messages: whole HTTP requests. check: (message, header, body) -> what is wrong, or ''."""

    port: int
    messages: list[bytes]
    check: Callable[[int, dict[str, str], bytes], str] | None = None
    host: str = "127.0.0.1"


async def closed_loop(target: Target, concurrency: int, seconds: float) -> Outcomes:
    """`concurrency` clients, each asking again as soon as it is answered."""
    found, end = Outcomes(), time.perf_counter() + seconds
    numbers = iter(range(1 << 60))

    async def client() -> None:
        connection = Connection(target)
        while (due := time.perf_counter()) < end:
            await _once(connection, next(numbers) % len(target.messages), due, found)
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(concurrency)])
    found.took = time.perf_counter() - started
    return found


async def open_loop(target: Target, rate: float, seconds: float, seed: int = 0) -> Outcomes:
    """Requests at random moments (Poisson), `rate` a second, whether or not earlier ones are answered."""
    rng, found = np.random.default_rng(seed), Outcomes()
    free: list[Connection] = []
    started = time.perf_counter()
    dues = started + np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    tasks: set[asyncio.Task] = set()

    async def one(number: int, due: float) -> None:
        connection = free.pop() if free else Connection(target)
        await _once(connection, number % len(target.messages), due, found)
        free.append(connection)

    for number, due in enumerate(dues):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    found.took = time.perf_counter() - started
    for connection in free:
        connection.close()
    return found


async def _once(connection: "Connection", number: int, due: float, found: Outcomes) -> None:
    target = connection.target
    try:
        async with asyncio.timeout(HUNG):
            status, head, body = await connection.ask(target.messages[number])
    except TimeoutError:
        status, head, body = -1, {}, b""
    except (OSError, asyncio.IncompleteReadError):
        status, head, body = 0, {}, b""
    found.statuses[status] = found.statuses.get(status, 0) + 1
    if status == 200:
        found.seconds.append(time.perf_counter() - due)
        if target.check is not None and (problem := target.check(number, head, body)):
            found.wrong.append(problem)
    elif status == 429:
        found.retry_after += int(head.get("retry-after", "0")) > 0
    else:
        connection.close()


class Connection:
    """One kept-alive connection, opened when it is needed."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, message: bytes, end: bool = False) -> tuple[int, dict[str, str], bytes]:
        """(status, header, body) of the answer; `end`: nothing will follow the message.

        A kept connection that the server has closed meanwhile is opened again, as any HTTP client does. Raises OSError
        or IncompleteReadError if the connection breaks.
        """
        kept = self._streams is not None
        try:
            return await self._asked(message, end)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            if not kept or getattr(error, "partial", b""):
                raise
        return await self._asked(message, end)

    async def _asked(self, message: bytes, end: bool) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.target.host, self.target.port)
        reader, writer = self._streams
        writer.write(message)
        if end:
            writer.write_eof()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(head.get("content-length", 0)))
        if head.get("connection") == "close":
            self.close()
        return int(first.split()[1]), head, body

    def close(self) -> None:
        """Close it; the next `ask` opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def http_message(path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> bytes:
    """A whole HTTP request."""
    lines = {"host": "localhost", "content-length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def answer_of(head: dict[str, str], body: bytes) -> tuple[str, np.ndarray]:
    """(version, scores) of an answer, binary or not."""
    size = head.get("inference-header-content-length")
    facts = json.loads(body if size is None else body[: int(size)])
    scores = facts["outputs"][0]["data"] if size is None else np.frombuffer(body[int(size) :], np.float32)
    return facts["model_version"], np.asarray(scores, np.float32)
