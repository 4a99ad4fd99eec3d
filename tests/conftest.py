"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the real data sets and checkpoints; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MOON_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder} is no directory (set MOON_SHARED)")
    return folder
