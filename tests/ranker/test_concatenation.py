"""Concatenation: the target's own vector and its mask, sample by sample, and where its gradient goes."""

import torch

from ranker.concatenation import Concatenation
from tests.ranker.evidence import M, assert_same, histories, leaves, make_evidence


def test_equals_the_reference_forward_and_backward():
    e = make_evidence()
    module = Concatenation("image", M)
    rows = []
    for i, h in enumerate(histories(e)):
        present = float(e.content["image"].present_U[e.batch.target[i]])
        rows.append(torch.cat([h.r_t, h.r_t.new_tensor([present])]))  # r_t is 0 where it is missing
    found = module(e)
    assert found.shape == (7, module.width)
    assert_same(found, torch.stack(rows), list(leaves(e).values()))
    assert not found[3].any() and found[2].any()


def test_the_gradient_reaches_the_vectors_of_targets_alone():
    e = make_evidence()
    Concatenation("image", M)(e).sum().backward()
    touched = e.content["image"].items_UM.grad.any(1).nonzero().flatten().tolist()  # pyright: ignore
    assert touched == sorted(set(e.batch.target.tolist())) and e.behaviours["seq"].items_UD.grad is None
