"""Ready-made histories: the CSR against plain lists, bad lists by history, memory that does not grow with the log."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data import given
from data.errors import InputError
from data.given import GivenHistories, write_given, write_none
from data.source import About, Split

ABOUT = About("ready", "click", ("view", "buy"), Split(rule="given"), side={"category": pl.Int64()})
SCHEMA = {"item_id": pl.List(pl.Int64), "action": pl.List(pl.Int8), "category": pl.List(pl.Int64)}


class Ready:
    """Histories as plain Python rows, a frame of `rows` at a time."""

    def __init__(self, histories: list[tuple[list, list, list]], rows: int = 3, schema: dict | None = None) -> None:
        self.frames = [
            pl.DataFrame(histories[at : at + rows], schema=schema or SCHEMA, orient="row")
            for at in range(0, len(histories), rows)
        ]
        self.calls = 0

    def histories(self) -> Iterator[pl.DataFrame]:
        self.calls += 1
        yield from self.frames


def random_histories(rng: np.random.Generator, count: int, as_text: bool = False) -> list[tuple[list, list, list]]:
    out = []
    for length in rng.integers(0, 6, count):
        items = rng.integers(-40, 40, length).tolist()
        sides = rng.integers(-(2**62), 2**62, length).tolist()
        ids = [f"i{i}" for i in items] if as_text else items
        out.append((ids, rng.integers(0, 2, length).tolist(), sides))
    return out


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("merge_rows", [1, 1 << 20])
def test_the_csr_equals_the_lists(tmp_path, monkeypatch, as_text, merge_rows):
    monkeypatch.setattr(given, "MERGE_ROWS", merge_rows)
    histories = random_histories(np.random.default_rng(0), 200, as_text)
    schema = {**SCHEMA, "item_id": pl.List(pl.String)} if as_text else SCHEMA
    known = sorted(["i3", "i-7", "z"] if as_text else [-7, 3, 99])
    source = Ready(histories, schema=schema)
    catalogue = pl.DataFrame({"item_id": known, "title": ["a", "b", "c"]})

    items = write_given(tmp_path / "b", ABOUT, catalogue, source)

    assert isinstance(source, GivenHistories)
    assert source.calls == 2
    assert items["item_id"].to_list() == sorted({*known, *(i for ids, _, _ in histories for i in ids)})
    assert items.drop_nulls("title").sort("title")["item_id"].to_list() == known
    offsets, item, ts, action, category = (
        np.load(tmp_path / "b" / f"{n}.npy", mmap_mode="r") for n in ("offsets", "item", "ts", "action", "category")
    )
    assert (offsets.dtype, item.dtype, ts.dtype, action.dtype) == (np.int64, np.int32, np.int64, np.int8)
    assert len(offsets) == 201 and not ts.any()
    ids = items["item_id"].to_list()
    for row, (wanted, actions, sides) in enumerate(histories):
        span = slice(offsets[row], offsets[row + 1])
        assert [ids[i] for i in item[span]] == wanted
        assert action[span].tolist() == actions and category[span].tolist() == sides


def test_an_empty_catalogue_and_empty_histories(tmp_path):
    empty = pl.DataFrame(schema={"item_id": pl.Int64})
    items = write_given(tmp_path / "a", ABOUT, empty, Ready([([7], [0], [1]), ([], [], [])]))
    assert items["item_id"].to_list() == [7]
    assert write_given(tmp_path / "b", ABOUT, empty, Ready([([], [], [])] * 4)).is_empty()
    assert np.load(tmp_path / "b" / "offsets.npy").tolist() == [0] * 5
    assert np.load(tmp_path / "b" / "item.npy").shape == (0,)
    write_none(tmp_path / "c", ABOUT)
    assert np.load(tmp_path / "c" / "offsets.npy").tolist() == [0]
    assert np.load(tmp_path / "c" / "category.npy").dtype == np.int64


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (([1, 2], [0], [5, 5]), "history 4, column 'action': 1 values for 2 items"),
        (([1, 2], [0, 1], [5]), "history 4, column 'category': 1 values for 2 items"),
        ((None, [0], [5]), "history 4, column 'item_id': None values for None items"),
        (([1, None], [0, 1], [5, 5]), "history 4, column 'item_id': None; it must be a value"),
        (([1, 2], [0, 1], [5, None]), "history 4, column 'category': None; it must be a value"),
        (([1, 2], [0, 2], [5, 5]), "history 4, column 'action': 2; it must be a code from 0 to 1"),
        (([1, 2], [-1, 0], [5, 5]), "history 4, column 'action': -1; it must be a code from 0 to 1"),
    ],
)
def test_a_bad_list_is_named_by_its_history(tmp_path, history, message):
    fine = ([1], [0], [5])
    source = Ready([fine, ([], [], []), fine, fine, history, fine])
    with pytest.raises(InputError) as error:
        write_given(tmp_path / "b", ABOUT, pl.DataFrame({"item_id": [1, 2]}), source)
    assert str(error.value) == message


def test_ids_of_another_kind_are_one_line(tmp_path):
    source = Ready([(["shoe"], [0], [5])], schema={**SCHEMA, "item_id": pl.List(pl.String)})
    with pytest.raises(InputError, match=r"^histories from 0: a column does not fit its kind: .*shoe"):
        write_given(tmp_path / "b", ABOUT, pl.DataFrame({"item_id": [1, 2]}), source)


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np, polars as pl
from data.given import write_given
from data.source import About, Split

class Many:
    def histories(self):
        rng = np.random.default_rng(0)
        for _ in range(int(sys.argv[1])):
            items = pl.Series("item_id", rng.integers(0, 10_000, (256, 500))).cast(pl.List(pl.Int64))
            action = pl.Series("action", np.zeros((256, 500), np.int8)).cast(pl.List(pl.Int8))
            yield pl.DataFrame([items, action])

about = About("many", "click", ("view",), Split(rule="given"))
items = write_given(Path(sys.argv[2]), about, pl.DataFrame({"item_id": range(5_000)}), Many())
assert len(items) == 10_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(frames: int, folder: Path) -> int:
    """Peak resident memory of a process that writes `frames` x 128,000 behaviours."""
    arguments = [sys.executable, "-c", PEAK, str(frames), str(folder)]
    root = Path(__file__).parents[2]
    return int(subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=root).stdout)


def test_memory_does_not_grow_with_the_log(tmp_path):
    small, large = peak_kib(4, tmp_path / "small"), peak_kib(60, tmp_path / "large")
    written = sum(f.stat().st_size for f in (tmp_path / "large").iterdir())
    assert written > 95 << 20
    assert large - small < 30 << 10, f"peak {small:,} KiB for 4 frames, {large:,} KiB for 60"
