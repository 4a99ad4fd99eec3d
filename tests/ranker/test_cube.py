"""CUBE against plain float64 sums over histories, written from METHOD's formulas."""

import pytest
import torch

from ranker.content_config import Cube
from ranker.cube import CubeExtractor
from tests.ranker.evidence import D, E, M, assert_same, histories, leaves, make_evidence
from tests.ranker.test_simtier import reference as simtier_reference


def weights_of(module, h):
    """W(s_b), (L,), 0 for behaviours that cannot be compared."""
    w = module.weights
    cos = torch.nan_to_num(h.cos, nan=0.0)
    t = torch.exp(w.log_temperature)
    if hasattr(w, "threshold"):
        return torch.sigmoid((cos - w.threshold) / t) * h.comparable
    if not h.comparable.any():
        return cos * 0
    out = torch.zeros_like(cos)
    out[h.comparable] = torch.softmax(h.cos[h.comparable] / t, 0)
    return out


def reference(module, e, top):
    part, rows = module.parts["seq"], []
    tier_rows = simtier_reference(e, part.simtier.weight, 1) if part.simtier is not None else None
    for i, h in enumerate(histories(e)):
        w = weights_of(part, h)
        present = torch.tensor([float(e.content["image"].target_present_B[i])], dtype=torch.float64)
        out = [h.r_t, present, (w.unsqueeze(1) * h.e_b).sum(0), (w.unsqueeze(1) * h.r_b).sum(0)]
        if tier_rows is not None:
            out.append(tier_rows[i])
        if top:
            best = h.cos[h.comparable].sort(descending=True).values[:top]
            out.append(torch.cat([best, best.new_full((top - len(best),), -1.0)]))
        rows.append(torch.cat(out))
    return torch.stack(rows)


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("simtier", "top"), [(True, 4), (False, 4), (True, 0)])
@pytest.mark.parametrize("side", [True, False], ids=["side", "no-side"])
def test_equals_the_reference_forward_and_backward(weights, simtier, top, side):
    e = make_evidence(side=side)
    config = Cube(kind="cube", vectors="image", sequences=("seq",), weights=weights, simtier=simtier, top=top)  # pyright: ignore
    width = D + (E if side else 0)
    module = CubeExtractor(config, {"seq": width}, M).double()
    found = module(e)
    assert found.shape == (7, module.width) and abs(module.parts["seq"].weights.log_temperature.exp() - 0.1) < 1e-6
    assert_same(found, reference(module, e, top), [*module.parameters(), *leaves(e).values()])


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_without_comparable_behaviours_there_is_no_evidence(weights):
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
