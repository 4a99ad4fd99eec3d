"""Appending to a store: shared files, old versions untouched, crashes, concurrent publishers; look-up by id."""

import errno
import os
import threading

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store
from features.store_append import append, fill
from features.store_writer import StoreWriter


def unit(n, dim=8, seed=0):
    v = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def start(root, items=20, dtype="int8", ids=None):
    ids = pl.Series("item_id", range(100, 100 + items)) if ids is None else ids
    with StoreWriter(root, items, 8, dtype, encoder="e", item_ids=ids, facts={"content": "both"}) as writer:
        writer.put(np.arange(1, items), unit(items - 1))
        return writer.publish()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("links", [True, False])
def test_old_rows_stay_and_new_rows_follow(tmp_path, dtype, links, monkeypatch):
    if not links:
        monkeypatch.setattr(
            os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no hard links here"))
        )
    first = start(tmp_path, dtype=dtype)
    before = [np.array(a) for a in (first.codes, first.scale, first.present)]
    second = append(tmp_path, first, pl.Series([7, 8]), unit(2, seed=1), {"inbox": ["a"]})
    third = append(tmp_path, second, pl.Series([9]), unit(1, seed=2))
    for version in (first, second, third):
        for old, array in zip(before, (version.codes, version.scale, version.present), strict=True):
            assert np.array_equal(array[:20], old)
    assert (len(first.codes), len(second.codes), len(third.codes)) == (20, 22, 23)
    assert third.item_ids.to_list() == [*range(100, 120), 7, 8, 9]
    np.testing.assert_allclose(
        third.vectors(np.arange(20, 23))[0], np.concatenate([unit(2, seed=1), unit(1, seed=2)]), atol=8e-3
    )
    shared = os.stat(first.folder / "codes.bin").st_ino == os.stat(third.folder / "codes.bin").st_ino
    assert shared == links
    assert (
        second.meta["inbox"] == ["a"]
        and second.meta["content"] == "both"
        and third.meta["origin"] == first.meta["origin"]
    )
    assert (
        third.meta["coverage"] == pytest.approx(22 / 23)
        and len({v.meta["fingerprint"] for v in (first, second, third)}) == 3
    )


def test_bytes_behind_a_version_are_never_written_over(tmp_path):
    first = start(tmp_path)
    gone = append(tmp_path, first, pl.Series([7]), unit(1, seed=1))
    held = np.array(gone.codes)
    for file in gone.folder.iterdir():
        file.unlink()
    gone.folder.rmdir()
    with open(first.folder / "scale.bin", "ab") as file:
        file.write(b"torn")
    again = append(tmp_path, first, pl.Series([7]), unit(1, seed=2))
    assert np.array_equal(gone.codes, held) and not np.array_equal(again.codes, held)
    assert np.array_equal(again.codes[:20], first.codes) and np.array_equal(again.scale[:20], first.scale)


def test_what_does_not_fit_is_one_line(tmp_path):
    first = start(tmp_path)
    with pytest.raises(InputError, match="kind 'whole', not 'text'"):
        append(tmp_path, first, pl.Series(["a"]), unit(1))
    with pytest.raises(InputError, match="vector of item 8 is not finite"):
        append(tmp_path, first, pl.Series([7, 8]), np.stack([np.ones(8), np.full(8, np.nan)]))
    append(tmp_path, first, pl.Series([7]), unit(1))
    with pytest.raises(InputError, match="version 2 was published meanwhile"):
        append(tmp_path, first, pl.Series([8]), unit(1))
    assert not list(tmp_path.glob(".writing-*")) and Store(tmp_path).current.number == 2


@pytest.mark.parametrize("links", [True, False])
def test_a_fill_writes_its_rows_and_copies_only_the_mask(tmp_path, links, monkeypatch):
    """An item that had no vector gets one in its place; no version before it sees that."""
    if not links:
        monkeypatch.setattr(
            os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no hard links here"))
        )
    first = append(tmp_path, start(tmp_path), pl.Series([7]), unit(1))
    second = fill(tmp_path, first, np.array([0]), unit(1, seed=4))
    third = append(tmp_path, second, pl.Series([8]), unit(1, seed=5))
    assert not first.present[0] and not first.vectors(np.array([0]))[1].any()
    assert second.present.all() and second.meta["vectors"] == 21 and second.meta["coverage"] == 1
    assert second.meta["origin"] == first.meta["origin"] and second.meta["fingerprint"] != first.meta["fingerprint"]
    assert np.array_equal(second.codes[1:], first.codes[1:]) and np.array_equal(third.codes[:21], second.codes)
    np.testing.assert_allclose(second.vectors(np.array([0]))[0], unit(1, seed=4), atol=8e-3)
    assert third.item_ids.to_list() == [*range(100, 120), 7, 8]
    numbers = {
        name: {os.stat(v.folder / name).st_ino for v in (first, second)} for name in ("codes.bin", "present.bin")
    }
    assert len(numbers["codes.bin"]) == (1 if links else 2) and len(numbers["present.bin"]) == 2


def test_a_place_that_was_written_before_is_not_written_again(tmp_path):
    """A version was removed by hand while a reader held it: its rows stay as they are."""
    first = start(tmp_path)
    gone = fill(tmp_path, first, np.array([0]), unit(1, seed=1))
    held = np.array(gone.codes)
    for file in gone.folder.iterdir():
        file.unlink()
    gone.folder.rmdir()
    again = fill(tmp_path, first, np.array([0]), unit(1, seed=2))
    assert np.array_equal(gone.codes, held) and not np.array_equal(again.codes[0], held[0])


def test_a_fill_of_what_is_there_or_nowhere_is_refused(tmp_path):
    first = start(tmp_path)
    with pytest.raises(InputError, match="has a vector already"):
        fill(tmp_path, first, np.array([0, 3]), unit(2))
    with pytest.raises(InputError, match="rows 0 to 20 are to be filled; it has 20 items"):
        fill(tmp_path, first, np.array([20, 0]), unit(2))
    with pytest.raises(InputError, match="vector of item 0 is zero"):
        fill(tmp_path, first, np.array([0]), np.zeros((1, 8)))
    fill(tmp_path, first, np.array([0]), unit(1))
    with pytest.raises(InputError, match="version 2 was published meanwhile"):
        fill(tmp_path, first, np.array([0]), unit(1))


def test_a_base_in_another_order_is_refused(tmp_path):
    first = start(tmp_path)
    with pytest.raises(InputError, match="not those of version 1 in its order"):
        StoreWriter(tmp_path, 20, 8, "int8", encoder="e", item_ids=first.item_ids.reverse(), base=first)


def test_a_reader_beside_an_appender_sees_whole_rows(tmp_path):
    start(tmp_path)
    failed = []

    def write():
        for n in range(150):
            version = Store(tmp_path).current
            append(tmp_path, version, pl.Series([1000 + n]), np.full((1, 8), 1.0))

    writer = threading.Thread(target=write)
    writer.start()
    store, seen = Store(tmp_path), 0
    rows = ItemRows(store.current)
    while writer.is_alive() or store.refresh():
        store.refresh()
        version = store.current
        rows.refresh(version)
        assert len(version.codes) == version.meta["items"] >= seen
        seen = version.meta["items"]
        new, mask = version.vectors(np.arange(20, seen))
        failed += [] if mask.all() and (new == new[:1, :1]).all() and len(new) == seen - 20 else [version.number]
        assert (rows.find(pl.Series(range(1000, 1000 + seen - 20), dtype=pl.Int64)) == np.arange(20, seen)).all()
    writer.join()
    assert not failed and seen == 170


@pytest.mark.parametrize("ids", [pl.Series([30, 10, 20]), pl.Series(["b", "a", "ä"])])
def test_rows_by_id(tmp_path, ids, monkeypatch):
    version = start(tmp_path, 3, ids=ids)
    rows, unknown = ItemRows(version), ids.dtype.to_python()(99)
    asked = pl.Series([ids[2], unknown, ids[0], None], dtype=ids.dtype)
    assert rows.find(asked).tolist() == [2, UNKNOWN, 0, UNKNOWN]
    grown = append(tmp_path, version, pl.Series([unknown]), unit(1))
    rows.refresh(grown)
    assert rows.find(asked).tolist() == [2, 3, 0, UNKNOWN]
    other = start(tmp_path, 3, ids=ids.reverse())
    rows.refresh(other)
    assert rows.find(asked).tolist() == [0, UNKNOWN, 2, UNKNOWN]
    with pytest.raises(InputError, match="the store's are"):
        rows.find(pl.Series([1.5]).cast(pl.String) if ids.dtype.is_integer() else pl.Series([1]))


def test_rows_by_id_sort_again_when_many_were_appended(tmp_path):
    version = start(tmp_path, 2)
    rows = ItemRows(version)
    for at in range(3):
        new = pl.Series(range(1000 + at * 3000, 4000 + at * 3000))
        version = append(tmp_path, version, new, np.ones((3000, 8)))
        rows.refresh(version)
    assert (rows.find(version.item_ids) == np.arange(9002)).all()
