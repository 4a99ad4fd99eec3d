"""Items that came after the export: a folder of files whose rows the catalogue learns while the server runs.

FOLDER/{NAME.jsonl | NAME.parquet}    rows: item_id and the catalogue's columns; a file appears whole and never changes
                                      (the `done` folder of `moon encoder watch` is such a one)
"""

from pathlib import Path

import polars as pl

from data.errors import InputError
from data.source import one_line
from ranker.serving.catalogue import Catalogue

READERS = {".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}


class LaterItems:
    """Follows one folder for one catalogue."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        """Raises InputError if there is no such folder."""
        if not folder.is_dir():
            raise InputError(f"--items {folder}: no such folder")
        self.folder, self.catalogue = folder, catalogue
        self._seen: set[str] = set()

    def refresh(self) -> tuple[int, list[str]]:
        """Read the files that came since; returns how many items are new, and what was wrong with which file."""
        new, wrong = 0, []
        for path in sorted(self.folder.iterdir()):
            if path.name in self._seen or path.name.startswith(".") or path.suffix not in READERS:
                continue
            self._seen.add(path.name)
            try:
                new += self.catalogue.learn(READERS[path.suffix](path))
            except (InputError, OSError, pl.exceptions.PolarsError) as error:
                wrong.append(f"{path}: {one_line(error)}")
        return new, wrong
