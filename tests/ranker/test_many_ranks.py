"""1, 2 and 4 gloo ranks train alike for every sharding, score alike, and load each other's checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ranker.many_ranks import SHARDINGS, STEPS


@pytest.fixture(scope="module")
def worlds(small, tmp_path_factory) -> dict[str, dict]:
    """What `tests.ranker.many_ranks` wrote, by file name."""
    out = tmp_path_factory.mktemp("worlds")
    run_ranks(["-m", "tests.ranker.many_ranks"], small, out)
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def run_ranks(words: list[str], data: Path, out: Path) -> None:
    """Python with these words, a dataset and a folder for what it finds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, *words, str(data), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("world", ["2", "4"])
def test_losses_scores_and_figures_are_those_of_one_rank_on_the_union_batch(world, sharding, worlds):
    """SGD, whose steps do not blow rounding up as the first ones of Adam and Adagrad do (+-lr whatever the gradient).

    The last batch of each epoch has fewer rows than ranks.
    """
    one, found = worlds["1"]["table_wise"], worlds[world][sharding]
    assert len(found["losses"]) == STEPS
    assert np.abs(np.array(found["losses"]) - one["losses"]).max() < 1e-5
    assert np.abs(np.array(found["scores"]) - one["scores"]).max() < 1e-5 < 0.02 < np.std(one["scores"])
    assert found["figures"] == pytest.approx(one["figures"], abs=1e-5)
    if sharding in ("row_wise", "column_wise"):
        expected = 2 if sharding == "column_wise" else int(world)
        assert set(found["plan"].values()) == {sharding} and set(found["shards"].values()) == {expected}
    if sharding == "mixed":
        assert found["plan"] == {"user": "row_wise", "item": "column_wise", "genres": "table_wise"}
    assert (sharding == "data_parallel") == (not found["plan"])


@pytest.mark.parametrize("world", ["1", "2", "4"])
def test_a_checkpoint_goes_on_bit_for_bit_at_its_own_number_of_ranks(world, worlds):
    """The first step after it is like any other: gradients are added up in the same order."""
    assert worlds[world]["again"] == worlds[world]["saved"]["next"]


@pytest.mark.parametrize("loaded", ["1", "2", "4"])
def test_a_checkpoint_of_n_ranks_goes_on_at_m_with_its_optimizer_state(loaded, worlds):
    """Adagrad and Adam: the next ten steps are those of the run that saved."""
    assert len(worlds[f"resumed-{loaded}"]) == 2
    for saved, found in worlds[f"resumed-{loaded}"].items():
        own = worlds[saved]["saved"]
        assert np.abs(np.array(found["scores"]) - own["scores"]).max() < 1e-6
        assert np.abs(np.array(found["next"]) - own["next"]).max() < 1e-5


def test_two_copies_of_the_tables_over_four_ranks_train_like_one_rank(worlds, small, tmp_path):
    """2D parallelism on gloo; -O takes TorchRec's assertion that the device is CUDA away."""
    run_ranks(["-O", "-m", "tests.ranker.two_dimensions"], small, tmp_path)
    found, one = json.loads((tmp_path / "two_dimensions.json").read_text()), worlds["1"]["table_wise"]
    assert found["model"] == "DMPCollection" and found["plan"] == worlds["2"]["mixed"]["plan"]
    assert np.abs(np.array(found["losses"]) - one["losses"][: len(found["losses"])]).max() < 1e-5
    assert found["again"] == found["next"] and np.ptp(found["next"]) > 0.01
    assert np.abs(np.array(found["at_one_rank"]) - found["scores"]).max() < 1e-6
