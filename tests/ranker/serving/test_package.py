"""Versions of a package: what a killed export left is removed, what another one is at is not."""

import subprocess
import sys

import pytest

from data.errors import InputError
from ranker.serving.package import current_version, new_version

EXPORT = """
import sys, time
from pathlib import Path
from ranker.serving.package import new_version
with new_version(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that is exporting into the folder."""
    with subprocess.Popen([sys.executable, "-c", EXPORT, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def test_a_killed_export_is_no_obstacle_and_is_cleaned_up(other, tmp_path):
    other.kill()
    other.wait()
    (left,) = tmp_path.iterdir()
    with new_version(tmp_path) as folder:
        (folder / "whole").write_text("x")
    assert not left.exists() and current_version(tmp_path).name == "v00000001"
    assert [path.name for path in current_version(tmp_path).iterdir()] == ["whole"]


def test_an_export_that_is_at_work_is_left_alone(other, tmp_path):
    (left,) = tmp_path.iterdir()
    with new_version(tmp_path) as folder:
        (folder / "whole").write_text("x")
    assert (left / "half").is_file()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="holds something else"), new_version(tmp_path):
        pass
