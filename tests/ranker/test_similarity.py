"""Cosines by index pairs: values, gradients, masks, and nothing of size (N, M) kept."""

import pytest
import torch

from ranker import similarity
from ranker.similarity import pair_dots
from tests.ranker.evidence import M, assert_same, histories, leaves, make_evidence


@pytest.mark.parametrize("kernel", ["sampled", "chunked"])
def test_cosines_equal_the_definition(kernel, monkeypatch):
    if kernel == "chunked":
        monkeypatch.setattr(similarity, "CHUNK", 3)
        monkeypatch.setattr(similarity, "_sampled", lambda i, q, item, n: similarity._chunked(i, q, item, row))
    e = make_evidence()
    row = e.behaviours["seq"].sequence.row
    found = e.cosines("image", "seq")
    expected = torch.cat([torch.nan_to_num(h.cos, nan=0.0) for h in histories(e)])
    known = torch.cat([h.comparable for h in histories(e)])
    assert torch.equal(found.known, known) and not found.values[~known].any()
    assert_same(found.values, expected, list(leaves(e).values()), 1e-9)
    assert e.cosines("image", "seq") is found


def test_pairs_pass_the_numerical_gradient_check():
    e = make_evidence()
    s = e.behaviours["seq"].sequence
    items = torch.randn(15, M, dtype=torch.float64, requires_grad=True)
    query = torch.randn(len(s.lengths), M, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, q: pair_dots(i, q, s), (items, query))
    none = make_evidence(lengths=[0, 0]).behaviours["seq"].sequence
    assert pair_dots(items, query[:2], none).shape == (0,)


def test_a_repeated_item_in_one_history_has_each_its_cosine():
    e = make_evidence()
    s, found = e.behaviours["seq"].sequence, e.cosines("image", "seq")
    twice = (s.row == 2) & (s.item == 1)
    assert twice.sum() == 2 and torch.allclose(found.values[twice], torch.ones(2, dtype=torch.float64))


def test_float32_stays_within_its_step():
    e = make_evidence()
    c = e.content["image"]
    s = e.behaviours["seq"].sequence
    single = pair_dots(c.unit_items_UM.float(), c.unit_target_BM.float(), s)
    assert torch.allclose(single.double(), e.cosines("image", "seq").values, atol=1e-6)


def test_nothing_of_the_pairs_size_times_the_width_is_saved_for_backward():
    e = make_evidence(lengths=[200] * 40)
    s = e.behaviours["seq"].sequence
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        pair_dots(e.content["image"].items_UM, e.content["image"].target_BM, s).sum()
    assert max(saved) <= len(s.row) < 8000 * M
