"""The representation store: exact contents, missing items, versions, and readers beside a writer."""

import multiprocessing
import threading

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from features.store import Store
from features.store_import import import_int8
from features.store_writer import KEPT_VERSIONS, StoreWriter


def unit(n, dim, seed=0):
    v = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def publish(root, value, items=50, dim=8):
    """A version whose every number says which it is."""
    with StoreWriter(root, items, dim, encoder="e") as writer:
        writer.put(np.arange(items), np.full((items, dim), value, dtype=np.float32))
        return writer.publish()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-4), ("int8", 1 / 254)])
def test_vectors_come_back_within_the_step_of_their_dtype(tmp_path, dtype, tolerance):
    vectors = unit(40, 16)
    with StoreWriter(tmp_path, 40, 16, dtype, encoder="e", dataset_fingerprint="f") as writer:
        writer.put(np.arange(40), vectors)
        writer.publish()
    version = Store(tmp_path).current
    out, mask = version.vectors(np.arange(40))
    assert mask.all()
    bound = tolerance * (np.abs(vectors).max(axis=1, keepdims=True) if dtype == "int8" else 1)
    assert (np.abs(out - vectors) <= bound * 1.001).all()
    assert version.meta["coverage"] == 1 and version.meta["dataset_fingerprint"] == "f"


def test_int8_ranks_neighbours_as_float32_does(tmp_path):
    gallery = unit(2000, 128)
    query = gallery + 0.25 * np.random.default_rng(1).normal(size=gallery.shape).astype(np.float32)
    with StoreWriter(tmp_path, 2000, 128, "int8", encoder="e") as writer:
        writer.put(np.arange(2000), gallery)
        writer.publish()
    stored, _ = Store(tmp_path).current.vectors(np.arange(2000))
    hits = [((query @ g.T).argmax(1) == np.arange(2000)).mean() for g in (gallery, stored)]
    assert 0.5 < hits[0] < 1 and abs(hits[0] - hits[1]) <= 0.002


def test_missing_and_newer_items_are_masked(tmp_path):
    with StoreWriter(tmp_path, 5, 4, encoder="e") as writer:
        writer.put(np.array([1, 3]), unit(2, 4))
        writer.publish()
    version = Store(tmp_path).current
    out, mask = version.vectors(np.array([0, 1, 3, 9]))
    assert mask.tolist() == [False, True, True, False]
    assert (out[~mask] == 0).all() and (out[mask] != 0).any()
    assert version.meta["coverage"] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="negative"):
        version.vectors(np.array([-1]))


def test_a_matryoshka_prefix_is_renormalised(tmp_path):
    vectors = unit(6, 16)
    with StoreWriter(tmp_path, 6, 16, encoder="e", matryoshka=(4, 8)) as writer:
        writer.put(np.arange(6), vectors)
        version = writer.publish()
    out, _ = version.vectors(np.arange(6), dim=4)
    np.testing.assert_allclose(out, vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True), atol=2e-3)
    with pytest.raises(InputError, match=r"no prefix of 5 dimensions; it has \[4, 8, 16\]"):
        version.vectors(np.arange(6), dim=5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_without_direction_is_refused(tmp_path, bad):
    with StoreWriter(tmp_path, 5, 4, "int8", encoder="e") as writer:
        with pytest.raises(InputError, match="item 3 is"):
            writer.put(np.array([2, 3]), np.stack([np.ones(4), np.full(4, bad)]))
        assert not writer._maps["present"].any()


def test_new_items_leave_the_old_rows_bit_identical(tmp_path):
    with StoreWriter(tmp_path, 10, 8, "int8", encoder="e") as writer:
        writer.put(np.arange(10), unit(10, 8))
        first = writer.publish()
    with StoreWriter(tmp_path, 12, 8, "int8", encoder="e", base=first) as writer:
        writer.put(np.array([11]), unit(1, 8, seed=3))
        second = writer.publish()
    assert np.array_equal(second.codes[:10], first.codes) and np.array_equal(second.scale[:10], first.scale)
    assert second.present.tolist() == [True] * 10 + [False, True]
    with pytest.raises(ValueError, match="read-only"):
        second.codes[0, 0] = 1


def test_an_addition_to_an_overtaken_version_is_refused(tmp_path):
    first = publish(tmp_path, 1)
    with StoreWriter(tmp_path, 50, 8, encoder="e", base=first) as late:
        publish(tmp_path, 2)
        with pytest.raises(InputError, match="version 2 was published meanwhile"):
            late.publish()
    assert Store(tmp_path).current.number == 2
    with pytest.raises(InputError, match="encoder is 'e' in version 1, not 'other'"):
        StoreWriter(tmp_path, 50, 8, encoder="other", base=first)
    assert not list(tmp_path.glob(".writing-*"))


def test_unpublished_work_is_never_seen(tmp_path):
    with pytest.raises(RuntimeError), StoreWriter(tmp_path, 5, 4, encoder="e") as writer:
        writer.put(np.arange(5), unit(5, 4))
        raise RuntimeError
    with pytest.raises(InputError, match="no representation store"):
        Store(tmp_path)
    assert not list(tmp_path.glob(".writing-*"))


def test_refresh_swaps_and_a_held_version_stays_readable(tmp_path):
    publish(tmp_path, 1)
    store = Store(tmp_path)
    held = store.current
    assert not store.refresh()
    for value in range(2, 3 + KEPT_VERSIONS):
        publish(tmp_path, value)
    assert store.refresh() and store.current.vectors(np.array([7]))[0][0, 0] == 2 + KEPT_VERSIONS
    assert held.vectors(np.array([7]))[0][0, 0] == 1
    assert len(list(tmp_path.glob("v*"))) == KEPT_VERSIONS


def _publish_many(root, count):
    for value in range(2, 2 + count):
        publish(root, value)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_reader_sees_whole_versions_while_a_writer_publishes(tmp_path, kind):
    publish(tmp_path, 1)
    make = threading.Thread if kind == "thread" else multiprocessing.get_context("fork").Process
    writer = make(target=_publish_many, args=(tmp_path, 60))
    writer.start()
    store, seen = Store(tmp_path), []
    while True:
        alive = writer.is_alive()
        store.refresh()
        out, mask = store.current.vectors(np.arange(50))
        assert mask.all() and len(np.unique(out)) == 1
        seen.append(float(out[0, 0]))
        assert seen[-1] == store.current.number
        if not alive:
            break
    writer.join()
    assert seen == sorted(seen) and seen[-1] == 61


def test_import_keeps_the_codes_and_counts_the_rest(tmp_path):
    ids = np.array([30, 10, 20])
    codes = np.array([[1, 2, 2, 0], [0, 0, 0, 0], [4, 4, -7, 0]], dtype=np.int8)
    with StoreWriter(tmp_path, 3, 4, "int8", encoder="taobao") as writer:
        chunks = [(np.array([10, 20]), codes[:2]), (np.array([99, 30]), codes[[0, 2]])]
        assert import_int8(writer, ids, chunks) == {"stored": 2, "unknown": 1, "zero": 1}
        version = writer.publish()
    out, mask = version.vectors(np.arange(3))
    assert mask.tolist() == [True, True, False]
    assert version.codes[1].tolist() == [1, 2, 2, 0] and version.codes[0].tolist() == [4, 4, -7, 0]
    np.testing.assert_allclose(out[:2], [[4 / 9, 4 / 9, -7 / 9, 0], [1 / 3, 2 / 3, 2 / 3, 0]], atol=1e-6)
    with StoreWriter(tmp_path, 3, 4, encoder="x") as writer, pytest.raises(InputError, match="need an int8 store"):
        import_int8(writer, ids, [])


def ids_of(*names):
    return pl.Series("item_id", names)


def test_ids_come_back_as_they_were(tmp_path):
    for ids in (ids_of(7, 3, -1), ids_of("é 1", "007", "")):
        with StoreWriter(tmp_path, 3, 4, encoder="e", item_ids=ids) as writer:
            assert writer.publish().item_ids.equals(ids)
    for bad, told in (
        (ids_of("a", "b\nc", "d"), "line break"),
        (ids_of(1, None, 2), "1 nulls"),
        (ids_of(1, 2), "2 item"),
    ):
        with pytest.raises(InputError, match=told):
            StoreWriter(tmp_path, 3, 4, encoder="e", item_ids=bad)
    assert publish(tmp_path, 1).meta["ids"] is None
    with pytest.raises(InputError, match="no item ids"):
        _ = Store(tmp_path).current.item_ids


def test_a_killed_writer_s_folder_goes_and_a_living_one_stays(tmp_path):
    (tmp_path / ".writing-killed").mkdir()
    with StoreWriter(tmp_path, 3, 4, encoder="e") as first:
        with StoreWriter(tmp_path, 3, 4, encoder="e") as second:
            second.publish()
        assert first.folder.is_dir() and not (tmp_path / ".writing-killed").exists()
        assert first.publish().number == 2
