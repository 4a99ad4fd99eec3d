"""The inbox of new items: files of rows that appear whole (written under a name with a leading dot, then renamed).

INBOX/{NAME.jsonl | NAME.parquet, pictures anywhere below}    rows: item_id, title, image (path below INBOX), and the
                                                              catalogue's further columns
INBOX/done/    files whose items are in the store             INBOX/failed/   files that could not be read at all
INBOX/failed.jsonl   what was wrong, a line an item
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.source import one_line, read_parquet

KINDS = (".jsonl", ".parquet")
COMPLAINTS = "failed.jsonl"


@dataclass(frozen=True)
class Drop:
    """One file of the inbox.

    Attributes:
        path: where it lies. dropped: Unix seconds of its last change.
        rows: its rows; bad: (row, reason) of those that are none.
    """

    path: Path
    dropped: float
    rows: list[tuple[int, dict[str, Any]]]
    bad: list[tuple[int, str]]


class Inbox:
    """A folder that items are dropped into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("done", "failed"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def waiting(self) -> list[Path]:
        """Files that lie there, oldest first."""
        found = []
        for entry in os.scandir(self.root):
            hidden = entry.name.startswith(".") or entry.name == COMPLAINTS
            if entry.is_file() and entry.name.endswith(KINDS) and not hidden:
                found.append((entry.stat().st_mtime_ns, entry.name))
        return [self.root / name for _, name in sorted(found)]

    def read(self, path: Path) -> Drop:
        """The rows of a file.

        Raises InputError if it cannot be read at all.
        """
        dropped = path.stat().st_mtime
        if path.suffix == ".parquet":
            return Drop(path, dropped, list(enumerate(read_parquet(path, ["item_id"]).to_dicts())), [])
        rows: list[tuple[int, dict[str, Any]]] = []
        bad: list[tuple[int, str]] = []
        for number, line in enumerate(path.read_bytes().splitlines()):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object of fields")
                rows.append((number, row))
            except (ValueError, RecursionError) as error:
                bad.append((number, f"not a JSON object: {one_line(error)}"))
        if bad and not rows:
            raise InputError(f"{path} row {bad[0][0]}: {bad[0][1]}")
        return Drop(path, dropped, rows, bad)

    def put_away(self, path: Path, folder: str) -> None:
        """Move a file to done/ or failed/; one of that name there stays."""
        target = self.root / folder / path.name
        if target.exists():
            target = target.with_name(f"{path.stem}.{time.time_ns()}{path.suffix}")
        os.rename(path, target)

    def complain(self, problems: list[dict[str, Any]]) -> None:
        """Add lines to failed.jsonl."""
        if problems:
            with open(self.root / COMPLAINTS, "a") as file:
                file.write("".join(json.dumps(problem) + "\n" for problem in problems))
