"""The bench of long histories on a small log: it measures the behaviours it says, and padding costs nothing."""

import pytest

from data.dataset import Dataset
from experiments.histories.bench import JAGGED, line, measure
from experiments.histories.log import write_log
from experiments.histories.mechanisms import MECHANISMS, recipe
from features.ranks import process_group


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_is_a_recipe(name):
    assert recipe(name, 200).features.sequences[0].length == 200


def test_a_cell_counts_real_behaviours_and_the_jagged_one_is_mostly_padding(tmp_path):
    data, store = write_log(tmp_path / "log", users=8, behaviours=300, dim=16)
    with process_group() as ranks:
        cells = [measure("DIN and CUBE", str(length), length, 80, Dataset(data), store, ranks) for length in (20, 200)]
        jagged = measure("DIN and CUBE", JAGGED, 200, 80, Dataset(data), store, ranks)
    assert [cell.behaviours for cell in cells] == [20, 200] and cells[1].pairs_bytes == 80 * 200 * 128 * 4
    assert all(cell.rows_per_second > 0 and cell.step_bytes >= 0 for cell in cells)
    assert 10 < jagged.padding < 30 and jagged.length == 200
    assert jagged.step_microseconds < cells[1].step_microseconds
    assert "behaviours a row" in line(jagged)
