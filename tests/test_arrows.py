"""Imports go down only: experiments -> ranker, moon_encoder -> features -> data; data has no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "data": {"data"},
    "features": {"features", "data"},
    "ranker": {"ranker", "features", "data"},
    "moon_encoder": {"moon_encoder", "features", "data"},
    "experiments": {"experiments", "ranker", "moon_encoder", "features", "data", "moon"},
}
ROOMS = set(MAY_IMPORT) | {"moon", "tests"}
FILES = sorted(f for room in MAY_IMPORT for f in (ROOT / room).rglob("*.py"))
LONGEST = 350  # lines of a file


def imported(source: str) -> set[str]:
    """Top-level names that a module imports, anywhere in it; also those given to import_module as "room.x"."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the arrows"
            names.add(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(".")[0] in ROOMS:
            head, dot, rest = node.value.partition(".")
            if dot and rest.replace(".", "").replace(":", "").isidentifier():
                names |= {head} if (ROOT / head / f"{rest.split('.')[0]}.py").is_file() else set()
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_room_imports_only_what_lies_below(file):
    source = file.read_text()
    found = imported(source)
    room = file.relative_to(ROOT).parts[0]
    assert found & ROOMS <= MAY_IMPORT[room]
    assert len(source.splitlines()) <= LONGEST
    if room == "data":
        assert not found & {"torch", "torchrec", "fbgemm_gpu", "transformers"}


def test_the_detector_sees_every_kind_of_import():
    source = "def f():\n    from ranker.train import train\nimport experiments.bench as b\nx = 'features.spec'\n"
    assert imported(source) == {"ranker", "experiments", "features"}
    with pytest.raises(AssertionError):
        imported("from . import x")


def test_preparing_loads_no_torch():
    code = "import sys, data.prepare, data.inspect, data.sources.tabular; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
