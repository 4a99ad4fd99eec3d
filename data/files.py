"""Files written atomically: the old one or the new one, never half."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

FULL_BELOW = 1 << 20  # bytes


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


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """What fails below because the disk of `folder` is full ends as an OSError (ENOSPC) that names `folder`.

    Libraries tell it in ways of their own (numpy: "11744 requested and 1008 written"), so an OSError or RuntimeError
    with less than FULL_BELOW bytes left counts as well.
    """
    try:
        yield
    except Exception as error:
        little = isinstance(error, OSError | RuntimeError) and shutil.disk_usage(_existing(folder)).free < FULL_BELOW
        if little or _means_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _means_full(error: BaseException | None) -> bool:
    return error is not None and (
        getattr(error, "errno", None) == errno.ENOSPC
        or os.strerror(errno.ENOSPC) in str(error)
        or _means_full(error.__cause__ or error.__context__)
    )


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
