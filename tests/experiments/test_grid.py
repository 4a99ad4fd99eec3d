"""The grid: cells end as run directories, a failed one is shown and the rest goes on, nothing is trained twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.config import parse_config
from data.dataset import Dataset
from data.errors import InputError
from experiments.grid import Cell, Grid, clock
from ranker.config import Recipe
from tests.conftest import write_store
from tests.ranker.conftest import TINY


def cell(data: Path, name: str = "a", seed: int = 0, **changes) -> Cell:
    tree = TINY | {"name": name, "seed": seed, "train": TINY["train"] | {"epochs": 1} | changes}
    return Cell(parse_config(tree, Recipe, "test"), data)


def broken(data: Path, name: str = "broken") -> Cell:
    """A cell that fails while training."""
    features = TINY["features"] | {"features": [{"kind": "id", "name": "x", "column": "nowhere"}], "sequences": []}
    tree = TINY | {"name": name, "features": features, "model": {"tower": [4]}}
    return Cell(parse_config(tree, Recipe, "test"), data)


def test_a_failed_cell_is_shown_the_rest_goes_on_and_nothing_is_trained_twice(small, tmp_path, capfd):
    cells = [broken(small), cell(small)]
    outcomes = Grid(tmp_path, cells).run(jobs=2)
    assert [o.error is None for o in outcomes] == [False, True]
    assert "nowhere" in str(outcomes[0].error) and "\n" not in str(outcomes[0].error)
    assert (tmp_path / "broken" / "s0.failed").read_text().strip() == outcomes[0].error
    shown = capfd.readouterr().err
    assert "broken/s0 FAILED" in shown and "grid 2/2" in shown
    before = outcomes[1].run.metrics("test").stat().st_mtime_ns, outcomes[1].run.meta()

    again = Grid(tmp_path, [*cells, cell(small, seed=1)])
    text = again.describe(2, 1000)
    assert "a       1 of 2 finished" in text and "0 of 1 finished, 1 failed before" in text
    assert again.seconds(again.cells[2], 1000) == before[1]["seconds"]
    outcomes = again.run(jobs=2)
    assert [o.error is None for o in outcomes] == [False, True, True]
    assert before == (outcomes[1].run.metrics("test").stat().st_mtime_ns, outcomes[1].run.meta())

    with pytest.raises(InputError, match="a finished run of another recipe"):
        Grid(tmp_path, [cell(small, batch_size=64)])
    store = write_store(tmp_path / "store", small)
    with pytest.raises(InputError, match="a finished run of another vectors"):
        Grid(tmp_path, [Cell(cells[1].recipe, small, {"image": store})])
    with pytest.raises(InputError, match="two cells of the grid are called 'a/s0'"):
        Grid(tmp_path, [cells[1], cells[1]])


def test_time_before_any_cell_is_finished_goes_by_the_assumed_speed(small, tmp_path):
    grid = Grid(tmp_path, [cell(small), cell(small, seed=1, epochs=3)])
    rows = Dataset(small).meta["counts"]
    assert grid.seconds(grid.cells[0], 100) == pytest.approx((rows["train"] + rows["valid"] + rows["test"]) / 100)
    left = (4 * rows["train"] + 2 * (rows["valid"] + rows["test"])) / 100
    assert f"2 cells; about {clock(left / 2)} left with --jobs 2" in grid.describe(2, 100)
    assert clock(3661) == "1:01:01" and clock(59.6) == "1:00"


def test_sigterm_lets_the_runs_save_and_the_grid_goes_on_from_there(small, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.experiments.test_grid import cell; "
        "from experiments.grid import Grid; "
        "Grid(Path(sys.argv[1]), [cell(Path(sys.argv[2]), epochs=2000)]).run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(small)], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
    )
    last = tmp_path / "a" / "s0" / "checkpoints" / "last"
    deadline = time.monotonic() + 120
    while not last.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert "stopped by SIGTERM after step" in (tmp_path / "a" / "s0.log").read_text()
    assert not Grid(tmp_path, [cell(small, epochs=2000)]).finished(cell(small, epochs=2000))
