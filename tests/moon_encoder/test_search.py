"""The blocked search against a full sort in float64: every block size, ties, missing vectors, several right rows."""

import numpy as np
import pytest
import torch

from features.store_writer import StoreWriter
from moon_encoder import search
from moon_encoder.search import Held, Listed, Picked, SameCode, Stored, neighbours, rank

BLOCKS = [(1, 1), (3, 10), (7, 1 << 20), (1024, 1 << 23)]


def vectors(n, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def slow(query, gallery, right, own=None, present=None, cutoffs=(1, 5, 10)):
    """first, hits by sorting; equal cosines put the right rows last."""
    unit = [v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (query, gallery)]
    first, hits = [], []
    for q in range(len(query)):
        cosine = np.round(gallery_cosines := unit[1] @ unit[0][q], 7)
        assert len(gallery_cosines) == len(gallery)
        rows = [r for r in range(len(gallery)) if (present is None or present[r]) and (own is None or own[q] != r)]
        rows.sort(key=lambda r: (-cosine[r], r in right[q]))
        places = [at for at, r in enumerate(rows, 1) if r in right[q]]
        first.append(places[0] if places else 0)
        hits.append([sum(p <= k for p in places) for k in cutoffs])
    return first, hits


def listed(right):
    pairs = [(q, r) for q, rows in enumerate(right) for r in rows]
    return Listed.of_pairs(len(right), *np.array(pairs or np.empty((0, 2)), np.int64).T)


@pytest.mark.parametrize(("queries", "scores"), BLOCKS)
def test_ranks_and_hits_equal_a_full_sort(monkeypatch, queries, scores):
    monkeypatch.setattr(search, "BLOCK_QUERIES", queries)
    monkeypatch.setattr(search, "BLOCK_SCORES", scores)
    rng = np.random.default_rng(1)
    query, gallery = vectors(12), vectors(60, seed=1)
    gallery[40] = 2 * gallery[7]  # the same direction twice
    right = [set(rng.integers(0, 60, n).tolist()) for n in (1, 2, 0, 3, 1, 1, 9, 1, 1, 2, 1, 30)]
    right[4] = {7}
    own = np.where(rng.random(12) < 0.5, rng.integers(0, 60, 12), -1)
    present = rng.random(60) < 0.9
    present[[7, 40]] = True
    for kwargs in ({}, {"own": own}, {"own": own, "present": present}):
        expected = slow(query, gallery, right, **kwargs)
        held = Held(gallery, kwargs.get("present"))
        got = rank(Held(query), held, listed(right), kwargs.get("own"), (1, 5, 10))
        assert got.first.tolist() == expected[0] and got.hits.tolist() == expected[1]


def test_a_right_row_far_down_has_its_exact_rank():
    query, gallery = vectors(5), vectors(3000, seed=2)
    right = [{int(r)} for r in np.random.default_rng(5).integers(0, 3000, 5)]
    got = rank(Held(query), Held(gallery), listed(right), cutoffs=(1, 2))
    assert got.first.tolist() == slow(query, gallery, right)[0] and got.first.min() > 2


def test_a_tie_counts_against_the_right_row():
    same = np.ones((20, 3), np.float32)
    got = rank(Held(same[:5]), Held(same), Listed.one(np.arange(5)), cutoffs=(1, 19, 20))
    assert (got.first == 20).all() and (got.hits == [0, 0, 1]).all()


def test_the_same_code_is_right_and_nobody_s_code_is_not():
    query, gallery = vectors(6), vectors(40, seed=3)
    mine, theirs = np.array([0, 1, 2, -1, 1, 7]), np.random.default_rng(0).integers(-1, 4, 40)
    right = [set(np.flatnonzero(theirs == code).tolist()) if code >= 0 else set() for code in mine]
    got = rank(Held(query), Held(gallery), SameCode(mine, theirs), cutoffs=(1, 5, 10))
    assert (got.first.tolist(), got.hits.tolist()) == slow(query, gallery, right)
    assert got.first[3] == got.first[5] == 0


@pytest.mark.parametrize(("queries", "scores"), BLOCKS)
def test_neighbours(monkeypatch, queries, scores):
    monkeypatch.setattr(search, "BLOCK_QUERIES", queries)
    monkeypatch.setattr(search, "BLOCK_SCORES", scores)
    gallery, present = vectors(30, seed=4), np.arange(30) % 7 != 0
    held = Held(gallery, present)
    rows = np.array([3, 8, 1])
    found, cosine = neighbours(Picked(held, rows), held, 4, own=rows)
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    exact = unit[rows] @ unit.T
    exact[:, ~present] = exact[np.arange(3), rows] = -2
    np.testing.assert_array_equal(found, np.argsort(-exact, axis=1)[:, :4])
    np.testing.assert_allclose(cosine, -np.sort(-exact, axis=1)[:, :4], atol=1e-6)


def test_a_gallery_smaller_than_k():
    held = Held(vectors(3))
    found, cosine = neighbours(held, held, 5, own=np.arange(3))
    assert (np.sort(found, axis=1)[:, :3] == -1).all() and (np.isfinite(cosine).sum(1) == 2).all()
    assert (rank(held, held, Listed.one(np.arange(3)), cutoffs=(10,)).hits == 1).all()


@pytest.mark.parametrize("dim", [None, 4])
def test_a_store_and_a_prefix_rank_like_their_vectors(tmp_path, dim):
    items = vectors(50, 8, seed=6)
    with StoreWriter(tmp_path, 52, 8, encoder="e", matryoshka=(4,)) as writer:
        writer.put(np.arange(50), items)
        version = writer.publish()
    query = items[:9] + 0.3 * vectors(9, 8, seed=7)
    target = Listed.one(np.arange(9))
    stored = rank(Held(query, dim=dim), Stored(version, dim), target)
    held = rank(Held(torch.from_numpy(query), dim=dim), Held(items.astype(np.float16), dim=dim), target)
    assert stored.first.tolist() == held.first.tolist() and len(Stored(version)) == 52
