"""The quality head: its formula, and 0 without a vector."""

import torch

from ranker.content_config import ContentQuality
from ranker.content_quality import QualityHead
from tests.ranker.evidence import M, assert_same, histories, leaves, make_evidence


def test_equals_the_reference_forward_and_backward():
    e = make_evidence()
    config = ContentQuality(kind="quality", vectors="image", hidden=(5,), width=3)  # pyright: ignore
    module = QualityHead(config, M).double()
    first, out = module.tower.layers[0], module.output
    rows = []
    for i, h in enumerate(histories(e)):
        present = float(e.content["image"].target_present_B[i])
        value = out.weight @ torch.relu(first.weight @ h.r_t + first.bias) + out.bias  # pyright: ignore
        rows.append(torch.cat([value * present, torch.tensor([present], dtype=torch.float64)]))
    found = module(e)
    assert_same(found, torch.stack(rows), [*module.parameters(), *leaves(e).values()])
    assert not found[3].any()
