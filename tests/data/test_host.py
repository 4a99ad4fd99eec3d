"""Threads of the compute: a core stays free for each thread beside it, unless OpenMP's own variable says how many."""

import os

import pytest

from data.host import compute_threads


@pytest.mark.parametrize(("cores", "beside", "threads"), [(1, 1, 1), (2, 1, 1), (2, 0, 2), (16, 2, 14)])
def test_the_loader_keeps_its_cores(cores, beside, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert compute_threads(beside) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert compute_threads(beside) is None
