"""Recall against sorting in full, ties, and the paired bootstrap."""

import numpy as np
import pytest
import torch

from moon_encoder import recall


@pytest.mark.parametrize("scores", [1, 100, 1 << 23])
def test_ranks_equal_a_full_sort(monkeypatch, scores):
    monkeypatch.setattr(recall, "BLOCK_SCORES", scores)
    torch.manual_seed(0)
    query, gallery, target = torch.randn(9, 4), torch.randn(30, 4), torch.randint(30, (9,))
    cosine = (query / query.norm(dim=1, keepdim=True)) @ (gallery / gallery.norm(dim=1, keepdim=True)).T
    expected = [cosine[i].argsort(descending=True).tolist().index(int(target[i])) + 1 for i in range(9)]
    assert recall.target_ranks(query, gallery, target).tolist() == expected


def test_a_collapsed_encoder_ranks_last():
    same = torch.ones(20, 3)
    assert (recall.target_ranks(same[:5], same, torch.arange(5)) == 20).all()


def test_figures():
    got = recall.figures(np.array([1, 2, 4, 20]), gallery=50, cutoffs=(1, 5))
    assert got == pytest.approx(
        {"queries": 4, "gallery": 50, "mrr": 0.45, "hr@1": 0.25, "precision@1": 0.25, "hr@5": 0.75, "precision@5": 0.15}
    )


def test_the_interval_of_a_difference_covers_it_and_knows_no_difference():
    rng = np.random.default_rng(0)
    better = np.where(rng.random(2000) < 0.6, 1, 9)
    worse = np.where(rng.random(2000) < 0.5, 1, 9)
    gain, low, high = recall.hit_rate_difference(better, worse, k=1)
    assert 0 < low < 0.1 < high and gain == pytest.approx((better == 1).mean() - (worse == 1).mean())
    assert recall.hit_rate_difference(better, better, k=1) == (0, 0, 0)
