"""HSTU against plain float64 loops over each history; blocks, pairs and recomputation give the same."""

import math

import pytest
import torch
from torch import nn

from ranker import hstu
from ranker.config import SequenceModel
from ranker.hstu import HSTU
from tests.ranker.evidence import D, E, assert_same, histories, leaves, make_evidence

AGES = [0.0, 1.0, 63.0, 86_400.0, 4e8]


def made(layers=2, time=True, fused=False, side=True, lengths=None):
    e = make_evidence(side=side, lengths=lengths)
    s = e.behaviours["seq"].sequence
    g = torch.Generator().manual_seed(2)
    drawn = torch.tensor(AGES, dtype=torch.float64)[torch.randint(len(AGES), (len(s.row),), generator=g)]
    s.numbers["age"] = torch.cat([part.sort(descending=True).values for part in drawn.split(s.lengths.tolist())])
    config = SequenceModel(
        kind="hstu", heads=2, head_dim=3, layers=layers, positions=6, time_bias=time,
        similarity_attention="image" if fused else None,
    )  # pyright: ignore  # fmt: skip
    torch.manual_seed(4)
    module = HSTU(D, E if side else 0, config).double()
    for name, p in module.named_parameters():
        if "bias.distance" in name or "bias.time" in name or "gamma" in name:
            nn.init.normal_(p, generator=torch.Generator().manual_seed(len(name)))
    return e, module


def silu(x):
    return x * torch.sigmoid(x)


def attended(layer, q, keys, values, distances, seconds, fuse=None, similarities=None):
    """sum_j SiLU(q k_j + bias) / positions v_j, head by head."""
    out = []
    for head in range(layer.heads):
        part = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        total = q.new_zeros(layer.head_dim)
        for j, key in enumerate(keys):
            score = (q[part] * key[part]).sum() + layer.bias.distance[min(distances[j], layer.positions - 1), head]
            if layer.bias.time is not None:
                score = score + layer.bias.time[min(int(math.log2(1 + max(seconds[j], 0))), 31), head]
            if fuse is not None and similarities[j] is not None:
                g, r = fuse.gamma, similarities[j]
                score = g[0] * score + g[1] * r + g[2] * score * r
            total = total + silu(score) / layer.positions * values[j][part]
        out.append(total)
    return torch.cat(out)


def reference(module, e):
    b, rows = e.behaviours["seq"], []
    for sample, h in enumerate(histories(e)):
        target = module.item(b.query_BD[sample])
        x = [module.item(row[:D]) + (module.side(row[D:]) if module.side is not None else 0) for row in h.e_b]
        ages = b.sequence.numbers["age"][b.sequence.row == sample].tolist()
        cos, n = torch.nan_to_num(h.cos, nan=0.0), len(x)
        for number, layer in enumerate(module.layers):
            split = [silu(layer.uvqk(layer.norm(row))).chunk(4) for row in [*x, target]]
            fused = module.fusion is not None and number == len(module.layers) - 1
            similarities = [cos[j] if fused else None for j in range(n)] + [None]
            new = []
            for i in range(n + 1):
                seen = range(i + 1)
                seconds = [ages[j] - (ages[i] if i < n else 0) if j < n else 0 for j in seen]
                if i < n:
                    seconds[i] = 0
                u, _, q, _ = split[i]
                a = attended(
                    layer, q, [split[j][3] for j in seen], [split[j][1] for j in seen], [i - j for j in seen], seconds,
                    module.fusion if fused and i == n else None, similarities,
                )  # fmt: skip
                new.append((x[i] if i < n else target) + layer.output(layer.attended_norm(a) * u))
            x, target = new[:n], new[n]
        rows.append(target)
    return torch.stack(rows)


@pytest.mark.parametrize(
    "config", [{}, {"layers": 1}, {"layers": 3, "time": False}, {"fused": True}, {"side": False}], ids=str
)
def test_equals_the_reference_forward_and_backward(config):
    e, module = made(**config)
    found = module(e.behaviours["seq"], e.cosines("image", "seq").values if module.fusion else None)
    assert found.shape == (7, module.width)
    assert_same(found, reference(module, e), [*module.parameters(), *leaves(e).values()])


@pytest.mark.parametrize("path", ["small blocks", "computed again", "pairs"])
def test_every_way_to_compute_it_gives_the_same(path, monkeypatch):
    e, module = made()
    expected = module(e.behaviours["seq"])
    if path == "small blocks":
        monkeypatch.setattr(hstu, "CELLS", 40)
        assert len(list(hstu._blocks(e.behaviours["seq"].sequence.lengths, 2))) == 4
    elif path == "computed again":
        monkeypatch.setattr(hstu, "KEPT", 0)
    else:
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert_same(module(e.behaviours["seq"]), expected, [*module.parameters(), *leaves(e).values()], 1e-9)


def test_empty_histories_give_a_state_of_the_target_alone():
    e, module = made(lengths=[0, 0, 0])
    found = module(e.behaviours["seq"])
    assert torch.isfinite(found).all() and found.any(1).all()
    assert_same(found, reference(module, e), list(module.parameters()))


def test_work_grows_with_the_pairs_that_exist(monkeypatch):
    """Cells of all blocks: next to the sum of squares, far from samples x longest squared."""
    lengths = torch.tensor([1000] + [10] * 999 + [0] * 50)
    monkeypatch.setattr(hstu, "CELLS", 1 << 14)
    cells = sum(len(samples) * int(lengths[samples].max()) ** 2 for samples in hstu._blocks(lengths, 1))
    assert cells == int((lengths**2).sum()) and sum(map(len, hstu._blocks(lengths, 1))) == 1000
