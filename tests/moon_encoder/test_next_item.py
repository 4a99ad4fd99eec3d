"""Union recall against plain loops, in blocks, with items and histories that lack vectors."""

import numpy as np
import pytest

from data.dataset import Dataset
from moon_encoder import next_item
from moon_encoder.next_item import clicks, union_recall
from moon_encoder.search import Held


@pytest.mark.parametrize("block", [1, 5, 2048])
@pytest.mark.parametrize("split", ["test", "train"])
def test_hits_and_sizes_recounted(small, monkeypatch, block, split):
    monkeypatch.setattr(next_item, "BLOCK", block)
    dataset, rng = Dataset(small), np.random.default_rng(0)
    vectors, present = rng.normal(size=(80, 6)).astype(np.float32), rng.random(80) < 0.8
    allowed = rng.random(80) < 0.7
    clicked = clicks(dataset, split, allowed, 10_000, length=4)
    found = union_recall(clicked, Held(vectors, present), k=3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    cosine[:, ~present] = -2
    near = np.argsort(-cosine, axis=1)[:, :3]
    behaviors, hits, sizes, users = dataset.behaviors(), [], [], []
    for row in dataset.samples(split).collect().iter_rows(named=True):
        if row["label"] == 1 and row["history_end"] and allowed[row["item"]]:
            start = behaviors.offsets[row["user"]]
            last = behaviors.item[start + max(row["history_end"] - 4, 0) : start + row["history_end"]]
            union = {int(j) for i in last if present[i] for j in near[i]}
            hits.append(row["item"] in union)
            sizes.append(len(union))
            users.append(row["user"])
    assert found.hit.tolist() == hits and found.size.tolist() == sizes and clicked.user.tolist() == users
    assert 0 < sum(hits) < len(hits) and all(present[clicked.item[found.hit]])


def test_at_most_so_many_clicks(small):
    everything = np.ones(80, bool)
    whole = clicks(Dataset(small), "train", everything, 10_000)
    some = clicks(Dataset(small), "train", everything, 20)
    assert len(some.item) == 20 < len(whole.item) and len(some.offsets) == 21
    assert np.diff(whole.offsets).max() <= 50 and np.diff(whole.offsets).min() > 0
