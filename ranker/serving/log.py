"""Structured logs: one JSON object a line on stderr."""

import sys
import time
from typing import Any

import orjson


def log(event: str, **facts: Any) -> None:
    """Write one event with its facts and the time (Unix seconds)."""
    line = orjson.dumps({"ts": round(time.time(), 3), "event": event, **facts}, default=str)
    sys.stderr.write(line.decode() + "\n")
    sys.stderr.flush()
