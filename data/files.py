"""Files written atomically: the old one or the new one, never half."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically; folders above are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write parquet atomically."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    frame.write_parquet(part)
    os.replace(part, path)
