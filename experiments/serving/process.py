"""A `moon serve` in a process of its own: started, watched, killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from data.errors import InputError

LONGEST_START = 120.0  # seconds


class ServerProcess:
    """A running server.

    Attributes:
        http, grpc: its ports. ready_seconds: from the start of the process to its first "ready".
        events: what it has logged.
    """

    def __init__(self, package: Path, *words: str) -> None:
        """Raises InputError with the server's own words if it does not start."""
        self.events: list[dict[str, Any]] = []
        self._errors: list[str] = []
        started = time.monotonic()
        argv = [sys.executable, "-m", "moon", "serve", str(package), "--http", "0", "--grpc", "0", *words]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        serving = self.wait_for("serving", LONGEST_START)
        self.http, self.grpc = serving["http"], serving["grpc"]
        while not self.ready():
            time.sleep(0.01)
        self.ready_seconds = time.monotonic() - started

    def ready(self) -> bool:
        """Whether it says that it takes requests."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def wait_for(self, event: str, seconds: float, before: int = 0) -> dict[str, Any]:
        """The first such event behind the first `before` ones. Raises InputError if it does not come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for found in self.events[before:]:
                if found["event"] == event:
                    return found
            if self.process.poll() is not None:
                self._reader.join()
                raise InputError(f"the server ended with {self.process.returncode}: {' '.join(self._errors[-3:])}")
            time.sleep(0.005)
        raise InputError(f"the server did not say {event!r} within {seconds:.0f} s")

    def resident_bytes(self) -> int:
        """Its resident set now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.events.append(json.loads(line))
            else:
                self._errors.append(line.strip())
