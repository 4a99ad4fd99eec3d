"""Progress lines: rate, share, time left."""

import time

from data.progress import Progress


def test_a_line_in_a_log(capsys, monkeypatch):
    clock = iter([0.0, 11.0, 11.0, 40.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress("embedding", 4400, "items")
    progress.add(1100)
    progress.add(3300 - 2200)
    monkeypatch.setattr(time, "monotonic", lambda: 44.0)
    progress.add(2200)
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "embedding: 1,100 of 4,400 items, 100 items/s, 33 s left",
        "embedding: 2,200 of 4,400 items, 55 items/s, 40 s left",
        "embedding: 4,400 of 4,400 items, 100 items/s",
    ]


def test_slow_work_and_long_waits(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("embedding", 1_000_000)
    for at, rows in ((20.0, 5), (40.0, 995), (60.0, 9000)):
        now[0] = at
        progress.add(rows)
    assert capsys.readouterr().err.splitlines() == [
        "embedding: 5 of 1,000,000 rows, 0.25 rows/s, 1111.1 h left",
        "embedding: 1,000 of 1,000,000 rows, 25 rows/s, 11.1 h left",
        "embedding: 10,000 of 1,000,000 rows, 167 rows/s, 99 min left",
    ]
