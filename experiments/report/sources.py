"""What there is to report on: every path is recognised by the files that only its kind has."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError

# A folder's kind, by a file in it. The order matters: a study's folder holds runs, and is not itself one.
MARKS = {
    "study": ("findings.json",),
    "ablation": ("study.yaml", "report.json"),
    "lift": ("lift.json",),
    "shares": ("shares.json",),
    "ope": ("ope.json",),
    "export": ("card.json",),
    "dataset": ("dataset.json",),
    "run": ("config.yaml", "meta.json", "metrics.jsonl"),
}
# A JSON file's kind, by keys that only its kind has.
KEYS = {
    "ablation": ("groups", "id_only"),
    "study": ("study", "findings", "settings"),
    "lift": ("arms", "control", "rank_by"),
    "shares": ("arms", "shares"),
    "ope": ("estimates", "logging", "target"),
    "recall": ("tasks", "subject", "left_out"),
    "export": ("hash", "provenance", "parity_lines"),
}
KINDS = "runs, encoder runs, stores, datasets, studies, lifts, off-policy estimates, exports, or recall JSON"


@dataclass
class Sources:
    """Paths by kind, in the order in which they were given or found (a folder's children by name).

    Attributes:
        runs, encoder_runs, stores, datasets: folders.
        found: (path, figures) of what has its figures in one JSON file, by kind.
    """

    runs: list[Path] = field(default_factory=list)
    encoder_runs: list[Path] = field(default_factory=list)
    stores: list[Path] = field(default_factory=list)
    datasets: list[Path] = field(default_factory=list)
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "Sources":
        """Look at paths; a folder that is none of ours is searched.

        Raises InputError for a path in which there is nothing to report on.
        """
        sources = cls()
        for path in paths:
            if not path.exists():
                raise InputError(f"{path}: no such file or folder")
            if not sources._add(path.resolve()):
                raise InputError(f"{path}: nothing to report on; give {KINDS}, or a folder that holds some")
        return sources

    def figures(self, kind: str) -> list[tuple[Path, dict[str, Any]]]:
        """What was found of a kind that has its figures in one JSON file; studies of a kind stand together."""
        found = self.found.get(kind, [])
        return sorted(found, key=lambda one: one[1]["study"]) if kind == "study" else found

    def _add(self, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".json" and self._add_json(path)
        kind = next((kind for kind, files in MARKS.items() if all((path / f).is_file() for f in files)), None)
        if kind is None and next(path.glob("v*/meta.json"), None):
            return self._once(self.stores, path)
        if kind is None:
            return any([self._add(child) for child in _children(path)])
        if kind == "dataset":
            return self._once(self.datasets, path)
        if kind == "run":
            return self._once(self.encoder_runs if _of_an_encoder(path) else self.runs, path)
        return self._add_json(path / MARKS[kind][-1])

    def _add_json(self, path: Path) -> bool:
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON: {error}") from None
        if not isinstance(found, dict):
            return False
        kind = next((kind for kind, keys in KEYS.items() if all(key in found for key in keys)), None)
        if kind is None:
            return False
        if all(path != other for other, _ in self.figures(kind)):
            self.found.setdefault(kind, []).append((path, found))
        return True

    def _once(self, places: list[Path], path: Path) -> bool:
        if path not in places:
            places.append(path)
        return True


def place(path: Path) -> str:
    """What a file of figures is called: its folder where the file's name is every such file's, else its own name."""
    return path.parent.name if any(path.name in files for files in MARKS.values()) else path.stem


def _children(folder: Path) -> Iterator[Path]:
    """What may be ours in a folder: visible folders and JSON files, by name, folders first; links are not followed."""
    inside = sorted(child for child in folder.iterdir() if not child.name.startswith(".") and not child.is_symlink())
    yield from (child for child in inside if child.is_dir())
    yield from (child for child in inside if child.suffix == ".json")


def _of_an_encoder(run: Path) -> bool:
    """Whether a run directory is of an encoder: its meta has the facts that it starts from, a ranker's has a recipe."""
    return "facts" in json.loads((run / "meta.json").read_text())
