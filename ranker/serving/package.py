"""A package on disk: everything that turns a request into scores, and nothing that needs the training machine.

    DIR/v00000003/{package.json, recipe.yaml, encoder/, items/, users/, tables/, dense-cpu.pt2, dense.program.pt2,
                   dense.onnx, examples/{requests,scores}.parquet, card.json, card.md}
    DIR/current -> v00000003

A version is published by one rename of a finished folder and never changes afterwards; `current` is moved by one rename
too, so a reader sees the old version or the new one. Rolling back is pointing `current` at an older version.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.config import Config, load_config, parse_config
from data.errors import InputError
from data.files import write_text
from ranker.config import Recipe
from ranker.serving.host_tables import TableDtype
from ranker.serving.signature import Signature
from ranker.serving.vectors import VectorFacts

SCHEMA_VERSION = 1
CARD = ("card.json", "card.md")
VERSION = re.compile(r"v\d{8}")
WRITING, POINTING = ".writing-", ".current."  # prefixes of what is not published yet
DenseDtype = Literal["float32", "bfloat16"]


class Package(Config):
    """package.json."""

    schema_version: int = SCHEMA_VERSION
    name: str = Field(description="the recipe's name, and that of the served model")
    hash: str = Field("", description="sha256 over the paths and contents of all files but the card")
    tables: TableDtype
    dense: DenseDtype
    cpu: str = Field(description="vector instructions that dense-cpu.pt2 was compiled for")
    devices: tuple[str, ...] = Field(description="devices that there is compiled code for")
    vectors: dict[str, VectorFacts] = Field(default_factory=dict, description="stores/NAME holds their store")
    inputs: tuple[str, ...] = Field(description="names of the program's inputs, in its order")
    signature: Signature
    files: dict[str, int] = Field(default_factory=dict, description="size in bytes of every other file")


def open_package(folder: Path) -> Package:
    """Read and check a version's package.json.

    Raises InputError if it is no package, of another schema, or a file is absent or cut off.
    """
    path = folder / "package.json"
    if not path.is_file():
        raise InputError(f"{folder}: no exported package (package.json is missing); make one with moon export")
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: schema version {facts.get('schema_version')}, this program reads {SCHEMA_VERSION}")
    package = parse_config(facts, Package, str(path))
    for name, size in package.files.items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there != size:
            state = "is missing" if there is None else f"has {there:,} bytes"
            raise InputError(f"{folder / name}: {state}, must have {size:,}; export again")
    return package


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a version."""
    return load_config(folder / "recipe.yaml", Recipe)


def current_version(root: Path) -> Path:
    """The folder of the version that `current` names (or `root` itself, if that is a version).

    Raises InputError if there is none.
    """
    if (root / "package.json").is_file():
        return root.resolve()
    link = root / "current"
    if not link.is_symlink():
        raise InputError(f"{root}: no exported package (no link `current`); make one with moon export")
    folder = root / os.readlink(link)
    if not folder.is_dir():
        raise InputError(f"{link}: points to {os.readlink(link)}, which is not there; versions: {_listed(root)}")
    return folder.resolve()


def version_number(folder: Path) -> str:
    """The version as clients see it: 3 for v00000003; the folder's name for a version that was moved elsewhere."""
    return str(int(folder.name[1:])) if VERSION.fullmatch(folder.name) else folder.name


@contextmanager
def new_version(root: Path) -> Iterator[Path]:
    """A folder to fill; it becomes the newest version and `current` if the block ends well, else it is removed. What a
    killed process left half filled is removed as well.

    Raises InputError if `root` holds something else.
    """
    if (
        root.is_dir()
        and not _versions(root)
        and any(not path.name.startswith((WRITING, POINTING)) for path in root.iterdir())
    ):
        raise InputError(f"--out {root}: holds something else; give an empty or a new folder")
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{WRITING}*"):
        with _held(left) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=root, prefix=WRITING))
    try:
        with _held(part):
            yield part
        part.chmod(0o755)
        name = f"v{max((int(v[1:]) for v in _versions(root)), default=0) + 1:08d}"
        os.rename(part, root / name)
        point(root, name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder while it is filled; whether nobody else does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def point(root: Path, name: str) -> None:
    """Make a version the current one, in one step."""
    part = root / f"{POINTING}{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(name)
    os.replace(part, root / "current")


def content_hash(folder: Path) -> str:
    """sha256 over paths and contents of all files but package.json and the card."""
    digest = hashlib.sha256()
    for path in _files(folder):
        if path.name not in CARD:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def seal(folder: Path, package: Package) -> None:
    """Write package.json with the sizes of all files."""
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in _files(folder)}
    write_text(folder / "package.json", package.model_copy(update={"files": sizes}).model_dump_json(indent=1) + "\n")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "package.json")


def _versions(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if VERSION.fullmatch(p.name)) if root.is_dir() else []


def _listed(root: Path) -> str:
    return ", ".join(_versions(root)) or "none"
