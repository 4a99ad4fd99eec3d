"""Two ranks, one of which lags behind: they read the same versions, stop after the same step, and overlap or not."""

import json

import pytest

from tests.ranker.test_many_ranks import run_ranks
from tests.ranker.two_ranks import RUNS, STOPPED


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> dict[str, dict]:
    """What `tests.ranker.two_ranks` wrote."""
    out = tmp_path_factory.mktemp("two")
    run_ranks(["-m", "tests.ranker.two_ranks"], small, out)
    return json.loads((out / "ranks.json").read_text())


def test_a_version_published_between_the_looks_of_two_ranks_is_read_by_both_or_neither(runs):
    """At the start, when the second one is there for one rank alone, and after the first evaluation, the third."""
    found = runs["undisturbed"]
    assert found["moves"] == [[-1, 1], [7, 2], [14, 3]] and found["read"] == [[2, 3, None]] * 2
    assert len(found["losses"]) == 28


def test_two_ranks_start_from_an_earlier_run(runs):
    """Each reads the tables that it holds: some are on one of them alone."""
    assert runs["taken over"] == pytest.approx(runs["best"], abs=1e-6) and len(set(runs["best"])) > 50


@pytest.mark.parametrize("name", [name for name, (_, rank) in RUNS.items() if rank is not None])
def test_ranks_stop_after_the_same_step_and_go_on_as_if_undisturbed(name, runs):
    """SIGTERM to one rank after the agreement of its step; also where the steps overlap."""
    found, whole = runs[name], runs["undisturbed"]
    assert found["stopped"] == STOPPED + 1
    assert [found[fact] for fact in ("moves", "losses", "scores")] == [
        whole[fact] for fact in ("moves", "losses", "scores")
    ]
