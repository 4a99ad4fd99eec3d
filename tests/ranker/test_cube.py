"""CUBE against plain float64 sums over histories, written from METHOD's formulas."""

import pytest
import torch

from ranker import cube
from ranker.content_config import Cube
from ranker.cube import CubeExtractor
from tests.ranker.evidence import D, E, M, assert_same, histories, leaves, make_evidence
from tests.ranker.test_simtier import reference as simtier_reference


@pytest.fixture(params=[False, True], ids=["products", "one-pass"])
def way(request, monkeypatch):
    """Both ways to the same figures: sparse products over distinct items, and the kernel of one pass (in blocks)."""
    monkeypatch.setattr(cube, "one_pass", lambda vectors: request.param)


def weights_of(module, h, among):
    """W(s_b), (L,), 0 for behaviours that are not `among` those to be weighed."""
    w = module.weights
    cos = torch.nan_to_num(h.cos, nan=0.0)
    t = torch.exp(w.log_temperature)
    if hasattr(w, "threshold"):
        return torch.sigmoid((cos - w.threshold) / t) * among
    if not among.any():
        return cos * 0
    out = torch.zeros_like(cos)
    out[among] = torch.softmax(h.cos[among] / t, 0)
    return out


def reference(module, e, top, split=False):
    part, rows = module.parts["seq"], []
    tiers = simtier_reference(e, part.simtier.weight, 2 if split else 1) if part.simtier is not None else None
    for i, h in enumerate(histories(e)):
        present = torch.tensor([float(e.content["image"].target_present_B[i])], dtype=torch.float64)
        out, tops = [h.r_t, present], []
        for group in [h.numbers <= 0, h.numbers > 0] if split else [torch.ones_like(h.comparable)]:
            among = h.comparable & group
            w = weights_of(part, h, among)
            out += [(w.unsqueeze(1) * h.e_b).sum(0), (w.unsqueeze(1) * h.r_b).sum(0)]
            best = h.cos[among].sort(descending=True).values[:top]
            tops.append(torch.cat([best, best.new_full((top - len(best),), -1.0)]))
        out += [] if tiers is None else [tiers[i]]
        rows.append(torch.cat(out + tops))
    return torch.stack(rows)


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("simtier", "top"), [(True, 4), (False, 4), (True, 0)])
@pytest.mark.parametrize("side", [True, False], ids=["side", "no-side"])
def test_equals_the_reference_forward_and_backward(way, weights, simtier, top, side):
    e = make_evidence(side=side)
    config = Cube(kind="cube", vectors="image", sequences=("seq",), weights=weights, simtier=simtier, top=top)  # pyright: ignore
    width = D + (E if side else 0)
    module = CubeExtractor(config, {"seq": width}, M).double()
    found = module(e)
    assert found.shape == (7, module.width) and abs(module.parts["seq"].weights.log_temperature.exp() - 0.1) < 1e-6
    assert_same(found, reference(module, e, top), [*module.parameters(), *leaves(e).values()])


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_split_by_a_number_it_reads_the_liked_and_the_others_apart(way, weights):
    e = make_evidence()
    config = Cube(kind="cube", vectors="image", sequences=("seq",), weights=weights, top=3, split_by="surprise")  # pyright: ignore
    module = CubeExtractor(config, {"seq": D + E}, M).double()
    found = module(e)
    assert found.shape == (7, module.width) and module.width == M + 1 + 2 * (D + E + M + 3 + 22)
    assert_same(found, reference(module, e, 3, split=True), [*module.parameters(), *leaves(e).values()])


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_without_comparable_behaviours_there_is_no_evidence(way, weights):
    """Empty history, no vector of the target, no vector of any behaviour: zeros and no nan anywhere."""
    e = make_evidence()
    config = Cube(kind="cube", vectors="image", sequences=("seq",), weights=weights, simtier=False, top=2)  # pyright: ignore
    module = CubeExtractor(config, {"seq": D + E}, M).double()
    found = module(e)[:, M + 1 :]
    assert not found[[0, 3, 4, 6], : D + E + M].any() and (found[[0, 3, 4, 6], -2:] == -1).all()
    assert found[[1, 2, 5], : D + E + M].any(1).all()
    empty = make_evidence(lengths=[0, 0])
    out = module(empty)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_a_frozen_vector_gets_no_gradient_while_ids_do():
    e = make_evidence()
    c = e.content["image"]
    for name in ("items_UM", "target_BM"):
        setattr(c, name, getattr(c, name).detach())
    config = Cube(kind="cube", vectors="image", sequences=("seq",))  # pyright: ignore
    CubeExtractor(config, {"seq": D + E}, M).double()(e).square().sum().backward()
    b = e.behaviours["seq"]
    assert not c.items_UM.requires_grad and b.items_UD.grad.any() and b.sides[0].rows_SE.grad.any()  # pyright: ignore
