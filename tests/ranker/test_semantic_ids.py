"""Attention over semantic ids against plain loops in float64."""

import torch

from features.spec import FeatureSpec
from ranker.content_config import SemanticIds
from ranker.mechanism import Widths
from ranker.mechanisms import mechanism
from tests.ranker.evidence import D, E, M, U, assert_same, histories, leaves, make_evidence

CONFIG = SemanticIds(kind="semantic_ids", vectors="image", sequence="seq", hidden=(5,))  # pyright: ignore
SPEC = FeatureSpec.model_validate({"features": [], "vectors": [{"name": "image", "codes": {"levels": 2}}]})
WIDTHS = [3, 2]


def made(side=True, **kwargs):
    e = make_evidence(side=side, **kwargs)
    g = torch.Generator().manual_seed(7)
    for level, width in enumerate(WIDTHS):
        rows = torch.randn(U, width, generator=g, dtype=torch.float64).requires_grad_()
        e.rows[f"image_code{level + 1}"] = rows
    torch.manual_seed(1)
    widths = Widths({"image": M}, {"image": sum(WIDTHS)}, {"seq": D}, {"seq": E if side else 0})
    return e, mechanism(CONFIG, widths, SPEC).double()


def reference(module, e):
    """[c_t, present, sum_b softmax(MLP[q, k, q-k, q*k, s])_b [c_b, s_b]] over the behaviours with a vector."""
    b, c = e.behaviours["seq"], e.content["image"]
    codes = torch.cat(list(e.rows.values()), 1) * c.present_U.unsqueeze(1)
    first, last, rows = module.attention.layers[0], module.attention.output, []
    for sample, h in enumerate(histories(e)):
        mine = (b.sequence.row == sample).nonzero().flatten()
        q, item = codes[e.batch.target[sample]], b.sequence.item[mine]
        keys, sides = codes[item], h.e_b[:, D:]
        there = c.present_U[item]
        out = keys.new_zeros(module.attention.width)
        if there.any():
            keys, sides = keys[there], sides[there]
            asked = q.expand_as(keys)
            x = torch.cat([asked, keys, asked - keys, asked * keys, sides], 1)
            w = torch.softmax(torch.relu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias, 0)
            out = (w * torch.cat([keys, sides], 1)).sum(0)
        rows.append(torch.cat([q, c.target_present_B[sample].double().reshape(1), out]))
    return torch.stack(rows)


def test_equals_the_reference_forward_and_backward():
    for side in (True, False):
        e, module = made(side)
        found = module(e)
        assert found.shape == (7, module.width)
        assert_same(found, reference(module, e), [*module.parameters(), *e.rows.values(), *leaves(e).values()])


def test_without_a_vector_there_is_no_code():
    """Sample 3's target has none, nor has any item of 6: zeros, whatever stands in the row of the missing code."""
    e, module = made()
    found = module(e)
    assert not found[3, : sum(WIDTHS) + 1].any() and found[3, sum(WIDTHS) + 1 :].any()
    assert not found[[0, 4, 6], sum(WIDTHS) + 1 :].any()
    missing = ~e.content["image"].present_U
    for rows in e.rows.values():
        (grad,) = torch.autograd.grad(found.square().sum(), rows, retain_graph=True)
        assert not grad[missing].any() and grad[~missing].any()
    empty, module = made(lengths=[0, 0])
    assert torch.isfinite(module(empty)).all()
