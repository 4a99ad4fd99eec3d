"""SimTier against its definition by plain loops."""

import math

import pytest
import torch

from ranker.similarity import Cosines
from ranker.simtier import TIERS, SimTier, tiers
from tests.ranker.evidence import assert_same, histories, leaves, make_evidence


def reference(e, weight, groups):
    rows = []
    for h in histories(e):
        counts = [[0] * TIERS for _ in range(groups)]
        for cos, comparable, number in zip(h.cos.tolist(), h.comparable.tolist(), h.numbers.tolist(), strict=True):
            tier = TIERS - 1 if not comparable else next(k for k in range(20, -1, -1) if cos + 1e-7 >= k / 10 - 1)
            counts[int(groups == 2 and number > 0)][tier] += 1
        flat = [math.log(1 + c) for group in counts for c in group]
        rows.append(torch.tensor(flat, dtype=torch.float64) * weight)
    return torch.stack(rows)


@pytest.mark.parametrize("groups", [1, 2])
def test_equals_the_definition(groups):
    e = make_evidence()
    module = SimTier(groups).double()
    with torch.no_grad():
        module.weight.normal_()
    s = e.behaviours["seq"].sequence
    group = (s.numbers["surprise"] > 0).long() if groups == 2 else None
    found = module(e.cosines("image", "seq"), s, group)
    assert_same(found, reference(e, module.weight, groups), [module.weight, *leaves(e).values()])
    assert not found[0].any() and found[6].nonzero().flatten().remainder(TIERS).unique().tolist() == [TIERS - 1]


def test_edges_of_the_tiers():
    values = torch.tensor([-1.0, -0.95, -0.9, 0.0, 0.1, 0.3, 0.7, 0.899, 0.999, 1.0, 1.0 - 1e-7, 0.5])
    known = torch.tensor([True] * 11 + [False])
    assert tiers(Cosines(values, known)).tolist() == [0, 0, 1, 10, 11, 13, 17, 18, 19, 20, 20, 21]
