"""Content interest in one pass: blocks and Triton (by its interpreter) against plain autograd in float64."""

import importlib
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.kernels import blocks, content_interest
from ranker.kernels.content_interest import Jagged, VectorTable
from ranker.similarity import Cosines
from ranker.simtier import TIERS, tiers

M, ROWS = 24, 40  # M is no power of two: the kernel masks the rest
LENGTHS = [0, 1, 70, 4, 0, 33, 3, 0]  # none at both ends; more and fewer than a kernel's step
MISSING = [3, 7, 8]


@pytest.fixture(params=["blocks", "triton"])
def passes(request, monkeypatch):
    """The implementation under test, in the place that chooses one."""
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "BLOCK_PAIRS", 30)
        return request.param
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton runs the GPU kernel's test")
    if "TRITON_INTERPRET" not in os.environ:
        pytest.skip("a GPU is there: the interpreter is off (set TRITON_INTERPRET=1 to use it)")
    module = importlib.import_module("ranker.kernels.triton_passes")
    monkeypatch.setattr(content_interest, "passes", lambda device: module)
    return request.param


def given(kind: str) -> dict:
    """Codes of a kind, with the vectors (R, M) float64 that they stand for."""
    g = torch.Generator().manual_seed(4)
    vectors = torch.randn(ROWS, M, generator=g, dtype=torch.float64)
    scale = None
    if kind == "int8":
        scale = (vectors.abs().amax(1) / 127).float()
        codes = torch.round(vectors / scale.unsqueeze(1)).to(torch.int8)
    else:
        codes = vectors.to(getattr(torch, kind))
    present = torch.ones(ROWS, dtype=torch.bool)
    present[MISSING] = False
    lengths = torch.tensor(LENGTHS)
    ids = torch.randint(ROWS, (int(lengths.sum()),), generator=g)
    ids[-3:] = torch.tensor(MISSING)  # a sample of behaviours that have no vector
    ids[1:3] = 5  # an item twice, that is the target itself
    query = torch.randn(len(LENGTHS), M, generator=g)
    shown = torch.ones(len(LENGTHS), dtype=torch.bool)
    shown[3] = False
    exact = codes.double() * (1 if scale is None else scale.double().unsqueeze(1))
    query[2] = exact[5].float() * 3
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths)
    return {"codes": codes, "scale": scale, "present": present, "exact": exact, "query": query, "shown": shown} | {
        "behaviours": Jagged(ids, lengths, row)
    }


def reference(vectors: Tensor, query: Tensor, t: Tensor, c: Tensor | None, x: dict) -> tuple[Tensor, ...]:
    """Cosines, weights, interest and counts sample by sample, in float64."""
    b = x["behaviours"]
    s_all, w_all, interests, counts = [], [], [], []
    for sample in range(len(b.lengths)):
        ids = b.ids[b.row == sample]
        known = x["present"][ids] & x["shown"][sample]
        r = vectors[ids]
        s = torch.where(known, F.cosine_similarity(r, query[sample].unsqueeze(0), dim=1), 0)
        u = (s - (0 if c is None else c)) * torch.exp(-t)
        if c is not None:
            w = torch.sigmoid(u) * known
        else:
            w = torch.zeros_like(u).masked_scatter(known, torch.softmax(u[known], 0))
        s_all.append(s)
        w_all.append(w)
        interests.append((w.unsqueeze(1) * r).sum(0))
        counts.append(torch.bincount(tiers(Cosines(s, known)), minlength=TIERS))
    return torch.cat(s_all), torch.cat(w_all), torch.stack(interests), torch.stack(counts)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_values_and_gradients_equal_the_definition(passes, kind, weights):
    x = given(kind)
    trained = kind == "float32"
    codes = x["codes"].requires_grad_() if trained else x["codes"]
    exact, wanted_query = x["exact"].detach().requires_grad_(), x["query"].double().requires_grad_()
    query = x["query"].requires_grad_()
    t, t64 = (torch.tensor(-1.2, dtype=d, requires_grad=True) for d in (torch.float32, torch.float64))
    c, c64 = (torch.tensor(0.3, dtype=d, requires_grad=True) for d in (torch.float32, torch.float64))
    c, c64 = (c, c64) if weights == "sigmoid" else (None, None)
    table = VectorTable(codes, x["present"], x["scale"])
    found = content_interest.content_interest(table, x["behaviours"], query, x["shown"], t, c)
    cosines, ws, interest, counts = reference(exact, wanted_query, t64, c64, x)
    for ours, theirs in ((found.cosines, cosines), (found.weights, ws), (found.interest, interest)):
        assert torch.allclose(ours.double(), theirs, atol=2e-6)
    assert torch.equal(found.counts.long(), counts) and counts[2, TIERS - 2] >= 2
    g = torch.Generator().manual_seed(9)
    pulls = [torch.randn(o.shape, generator=g, dtype=torch.float64) for o in (cosines, ws, interest)]
    leaves = [(query, wanted_query), (t, t64)] + ([(c, c64)] if c is not None else [])
    leaves += [(codes, exact)] if trained else []
    outputs = (found.cosines, found.weights, found.interest)
    ours = torch.autograd.grad(
        sum((o * p.float()).sum() for o, p in zip(outputs, pulls, strict=True)), [a for a, _ in leaves]
    )
    total = sum((o * p).sum() for o, p in zip((cosines, ws, interest), pulls, strict=True))
    theirs = torch.autograd.grad(total, [b for _, b in leaves])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.isfinite(a).all() and torch.allclose(a.double(), b, atol=2e-5, rtol=2e-5)


def test_float64_passes_the_numerical_gradient_check():
    g, lengths = torch.Generator().manual_seed(1), torch.tensor([3, 0, 4])
    few = Jagged(torch.tensor([0, 1, 2, 3, 4, 0, 1]), lengths, torch.repeat_interleave(torch.arange(3), lengths))
    codes, query = (torch.randn(n, 3, generator=g, dtype=torch.float64, requires_grad=True) for n in (5, 3))
    present = torch.tensor([True, True, False, True, True])
    t, c = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.0, 0.2))

    def outputs(codes, query, t, c):
        table = VectorTable(codes, present)
        found = content_interest.content_interest(table, few, query, torch.ones(3, dtype=torch.bool), t, c)
        return found.cosines, found.weights, found.interest

    assert torch.autograd.gradcheck(outputs, (codes, query, t, c))
    assert torch.autograd.gradcheck(lambda e, q, t: outputs(e, q, t, None), (codes, query, t))


def test_nothing_as_large_as_the_pairs_times_the_width_is_made(monkeypatch):
    """Neither saved for the backward pass nor gathered at once: a block at a time."""
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", 64)
    lengths = torch.tensor([50] * 40)
    b = Jagged(torch.arange(2000) % ROWS, lengths, torch.repeat_interleave(torch.arange(40), lengths))
    x, sizes = given("float16"), []
    gather = torch.Tensor.index_select

    def watched(tensor, dim, index):
        out = gather(tensor, dim, index)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(torch.Tensor, "index_select", watched)
    t, query = torch.zeros((), requires_grad=True), torch.randn(40, M)
    with torch.autograd.graph.saved_tensors_hooks(lambda v: sizes.append(v.numel()) or v, lambda v: v):
        table = VectorTable(x["codes"], x["present"])
        found = content_interest.content_interest(table, b, query, torch.ones(40, dtype=torch.bool), t)
    found.interest.sum().backward()
    assert max(sizes) <= 2 * 64 * M < 2000 * M and t.grad is not None


def test_int8_codes_need_their_scale():
    with pytest.raises(ValueError, match="int8 codes need a scale"):
        VectorTable(torch.zeros(2, 4, dtype=torch.int8), torch.ones(2, dtype=torch.bool))
