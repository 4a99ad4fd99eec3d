"""Figures against their definitions in plain Python, ties, and the bootstrap."""

import numpy as np
import pytest
import torch

from moon_encoder import recall
from moon_encoder.search import Ranking


def test_a_collapsed_encoder_ranks_last():
    same = torch.ones(20, 3)
    assert (recall.target_ranks(same[:5], same, torch.arange(5)) == 20).all()


def test_figures_of_one_right_item():
    got = recall.figures(np.array([1, 2, 4, 20]), gallery=50, cutoffs=(1, 5))
    assert got == pytest.approx(
        {"queries": 4, "gallery": 50, "mrr": 0.45, "hr@1": 0.25, "precision@1": 0.25, "hr@5": 0.75, "precision@5": 0.15}
    )


def test_figures_of_several_right_items_and_of_none():
    ranking = Ranking(np.array([1, 3, 0]), np.array([[1, 2], [0, 3], [0, 0]]))
    values = recall.values(ranking, (1, 4))
    assert recall.names((1, 4)) == ["hr@1", "hr@4", "precision@1", "precision@4", "mrr"]
    np.testing.assert_allclose(values, [[1, 1, 1, 0.5, 1], [0, 1, 0, 0.75, 1 / 3], [0, 0, 0, 0, 0]])


def test_a_report_by_category():
    values = np.array([[1.0], [0.0], [1.0], [1.0], [0.0]])
    found = recall.report(values, 30, np.array(["b", "a", "b", "b", "a"]), figures=["hr@1"])
    assert found["queries"] == 5 and found["gallery"] == 30 and found["hr@1"]["value"] == 0.6
    assert list(found["categories"]) == ["b", "a"]
    assert found["categories"]["b"]["hr@1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["categories"]["a"]["queries"] == 2 and found["categories"]["a"]["gallery"] == 30


def test_the_interval_is_that_of_a_binomial():
    rng = np.random.default_rng(3)
    hits = (rng.random(2000) < 0.3)[:, None].astype(float)
    low, high = recall.interval(hits)
    width = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    assert low[0] == pytest.approx(hits.mean() - width, abs=0.1 * width)
    assert high[0] == pytest.approx(hits.mean() + width, abs=0.1 * width)


def test_clusters_are_drawn_whole():
    """Twenty copies of each query hold no more than the queries themselves."""
    rng = np.random.default_rng(4)
    hits = (rng.random(300) < 0.4)[:, None].astype(float)
    alone = recall.interval(hits)
    copies = recall.interval(np.repeat(hits, 20, axis=0), np.repeat(np.arange(300), 20))
    np.testing.assert_allclose(copies, alone, atol=1e-12)
    naive = recall.interval(np.repeat(hits, 20, axis=0))
    assert naive[1][0] - naive[0][0] < 0.4 * (alone[1][0] - alone[0][0])


def test_the_interval_of_a_difference_covers_it_and_knows_no_difference():
    rng = np.random.default_rng(0)
    better = np.where(rng.random(2000) < 0.6, 1, 9)
    worse = np.where(rng.random(2000) < 0.5, 1, 9)
    gain, low, high = recall.hit_rate_difference(better, worse, k=1)
    assert 0 < low < 0.1 < high and gain == pytest.approx((better == 1).mean() - (worse == 1).mean())
    assert recall.hit_rate_difference(better, better, k=1) == (0, 0, 0)
