"""Ranks that die are started again, those that found bad input or were asked to stop are not."""

from types import SimpleNamespace

import pytest

from data import local_ranks
from data.local_ranks import RESTARTS, restarted, spread


def failing(monkeypatch, *statuses: int | None) -> list[tuple[list[str], int]]:
    """The ranks end with these statuses, one start after the other; (arguments, restart) of each start."""
    starts: list[tuple[list[str], int]] = []

    def once(command, processes, argv, debug, restart):
        status = statuses[len(starts)]
        starts.append((argv, restart))
        process = SimpleNamespace(returncode=status)
        return None if status is None else SimpleNamespace(process=process, rank=1, error="")

    monkeypatch.setattr(local_ranks, "_once", once)
    return starts


def test_what_dies_is_started_again(monkeypatch, capsys):
    starts = failing(monkeypatch, -9, 1, None)
    assert spread("train", 2, ["recipe.yaml", "--nproc", "2"], False, max_restarts=3) == 0
    assert starts == [(["recipe.yaml"], 0), (["recipe.yaml"], 1), (["recipe.yaml"], 2)]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "moon train: rank 1 ended with status -9; restart 1 of 3" and said[1].endswith("restart 2 of 3")


def test_it_ends_with_the_restarts(monkeypatch):
    starts = failing(monkeypatch, -9, -9, -9)
    assert spread("train", 2, [], False, max_restarts=1) == 1 and len(starts) == 2


@pytest.mark.parametrize("status", [2, 143])
def test_bad_input_and_sigterm_are_final(status, monkeypatch):
    starts = failing(monkeypatch, status, None)
    assert spread("train", 2, [], False, max_restarts=3) == status and len(starts) == 1


def test_a_process_knows_that_it_takes_anothers_place(monkeypatch):
    monkeypatch.delenv(RESTARTS, raising=False)
    assert not restarted()
    monkeypatch.setenv(RESTARTS, "0")
    assert not restarted()
    monkeypatch.setenv(RESTARTS, "2")
    assert restarted()
