"""Residual interest against the formula by plain loops, and its meaning: signs, missing vectors, a perfect twin."""

import torch

from ranker.content_config import ResidualInterest
from ranker.residual_interest import GAIN, ResidualEvidence
from tests.ranker.evidence import assert_same, histories, leaves, make_evidence

CONFIG = ResidualInterest(kind="residual", vectors="image", sequence="seq")  # pyright: ignore


def reference(module, e):
    t, m, p = (torch.exp(x) for x in (module.log_temperature, module.log_shrinkage, module.log_prior))
    rows = []
    for h in histories(e):
        u = h.numbers.sum() / (len(h.numbers) + p)
        r, mass = torch.zeros_like(t), torch.zeros_like(t)
        total = torch.zeros_like(t)
        for cos, comparable, v in zip(h.cos, h.comparable, h.numbers, strict=True):
            if comparable:
                w = torch.exp((cos - 1) / t)
                mass, total = mass + w, total + w * (v - u)
        r = total / (mass + m)
        rows.append(torch.cat([GAIN * r, torch.log(1 + mass), GAIN * u.reshape(1)]))
    return torch.stack(rows)


def test_equals_the_reference_forward_and_backward():
    e = make_evidence()
    module = ResidualEvidence(CONFIG).double()
    found = module(e)
    assert found.shape == (7, module.width) and module.width == 9
    assert_same(found, reference(module, e), [*module.parameters(), *leaves(e).values()])
    assert not found[[0, 4]].any() and not found[[3, 6], :8].any()


def test_a_disliked_twin_of_the_target_speaks_against_it():
    e = make_evidence()
    s = e.behaviours["seq"].sequence
    s.numbers["surprise"] = torch.where((s.row == 2) & (s.item == 1), -0.8, 0.1).double()
    low = ResidualEvidence(CONFIG).double()(e)[2]
    s.numbers["surprise"] = -s.numbers["surprise"]
    high = ResidualEvidence(CONFIG).double()(e)[2]
    assert low[0] < -1 and high[0] > 1 and torch.allclose(low[4:8], high[4:8])
