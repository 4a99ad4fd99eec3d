"""A server in a process of its own, and requests to it."""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranker.exporting.recorded import tensors_of
from ranker.serving.signature import Signature


@dataclass
class Server:
    """A running server. events: what it has logged so far."""

    process: subprocess.Popen
    events: list[dict[str, Any]]

    @property
    def http(self) -> int:
        return self.events[0]["http"]

    @property
    def grpc(self) -> int:
        return self.events[0]["grpc"]

    def until(self, event: str) -> dict[str, Any]:
        """Read the log until this event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            assert line.startswith("{"), line
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"the server ended with {self.process.wait()} before {event!r}: {self.events}")

    def post(self, body: bytes, path: str = "/v2/models/export/infer", **headers: str) -> tuple[int, dict, Any]:
        """(status, headers in lower case, JSON) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=60)
        connection.request("POST", path, body, headers)
        found = connection.getresponse()
        status, heads, text = found.status, {k.lower(): v for k, v in found.getheaders()}, found.read()
        connection.close()
        return status, heads, json.loads(text)

    def get(self, path: str) -> str:
        """The text of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=60)
        connection.request("GET", path)
        found = connection.getresponse()
        assert found.status == 200
        return found.read().decode()


@contextmanager
def serving(package: Path, *words: Any) -> Iterator[Server]:
    """A server of `package` on free ports; it must end with status 0 on SIGTERM, having said so."""
    argv = ["serve", package, "--http", 0, "--grpc", 0, "--workers", 2, "--poll-s", 0.1, *words]
    process = subprocess.Popen([sys.executable, "-m", "moon", *map(str, argv)], stderr=subprocess.PIPE, text=True)
    try:
        server = Server(process, [])
        server.until("serving")
        yield server
        process.send_signal(signal.SIGTERM)
        server.until("stopped")
        assert process.wait(60) == 0
    finally:
        process.kill()


def body(signature: Signature, row: dict, **changes: Any) -> bytes:
    """A request as JSON; `changes`: other values, by input."""
    tensors = tensors_of(signature, row) | {name: np.array(values) for name, values in changes.items()}
    inputs = []
    for name, values in tensors.items():
        data = [None if v != v else v for v in values.tolist()]  # NaN is null
        datatype = signature.input(name).datatype
        inputs.append({"name": name, "shape": [len(data)], "datatype": datatype, "data": data})
    return json.dumps({"inputs": inputs}).encode()
