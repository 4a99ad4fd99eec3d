"""SA-TA, cosine as side information and searches, against plain float64 loops over the behaviours they should see."""

import pytest
import torch
from torch import nn

from ranker.config import SequenceModel
from ranker.sequence_interest import SequenceInterest
from ranker.simtier import TIERS
from tests.ranker.evidence import D, E, assert_same, histories, leaves, make_evidence


def interest(e, **config) -> SequenceInterest:
    torch.manual_seed(5)
    side = E if e.behaviours["seq"].sides else 0
    module = SequenceInterest("seq", D, side, SequenceModel(**config)).double()
    for name, p in module.named_parameters():
        if "gamma" in name:
            nn.init.normal_(p)
    return module


def din(module, q, e_b, extra, r, softmax):
    """DIN over one history, scores fused with r if given; extra (L, X): further side columns."""
    k, value = e_b[:, :D], torch.cat([e_b, extra], 1)
    hidden = torch.cat([q.expand_as(k), k, q - k, q * k, value[:, D:]], 1)
    for layer, act in zip(module.layers, module.activations, strict=True):
        hidden = act(layer(hidden))
    score = module.output(hidden).squeeze(1)
    if r is not None:
        g = module.fusion.gamma
        score = g[0] * score + g[1] * r + g[2] * score * r
    weight = torch.softmax(score, 0) if softmax else score
    return (weight.unsqueeze(1) * value).sum(0)


def mha(module, q, e_b, extra, r):
    k, value = e_b[:, :D], torch.cat([e_b[:, D:], extra], 1)
    key, v = module.item_key(k), module.item_value(k)
    if module.side_key is not None:
        key, v = key + module.side_key(value), v + module.side_value(value)
    heads = [t.unflatten(-1, (module.heads, module.head_dim)) for t in (module.query(q), key, v)]
    score = torch.einsum("hd,lhd->lh", heads[0], heads[1]) / module.head_dim**0.5
    if r is not None:
        g = module.fusion.gamma
        score = g[0] * score + g[1] * r.unsqueeze(1) + g[2] * score * r.unsqueeze(1)
    return torch.einsum("lh,lhd->hd", torch.softmax(score, 0), heads[2]).flatten()


def reference(module, e, kept=None, softmax=True):
    """`kept`: for each sample the behaviours that the attention is to see."""
    attention, config, rows = module.attention, module.config, []
    for i, h in enumerate(histories(e)):
        mine = list(range(len(h.numbers))) if kept is None else kept[i]
        if not mine:
            rows.append(h.e_b.new_zeros(module.width))
            continue
        e_b, cos = h.e_b[mine], torch.nan_to_num(h.cos, nan=0.0)[mine]
        extra = e_b.new_zeros(len(mine), 0)
        if config.similarity_side:
            places = [
                next(k for k in range(20, -1, -1) if c + 1e-7 >= k / 10 - 1) if known else TIERS - 1
                for c, known in zip(cos.tolist(), h.comparable[mine].tolist(), strict=True)
            ]
            extra = module.tiers[places]
        r = cos if config.similarity_attention else None
        q = e.behaviours["seq"].query_BD[i]
        if config.kind == "din":
            rows.append(din(attention, q, e_b, extra, r, softmax))
        elif config.kind == "mha":
            rows.append(mha(attention, q, e_b, extra, r))
        else:
            rows.append(torch.cat([e_b, extra], 1).mean(0))
    return torch.stack(rows)


SIDE = {"similarity_side": {"vectors": "image", "dim": 3}}
FUSED = {"similarity_attention": "image"}
DIN = {"kind": "din", "hidden": (5,), "softmax": True}
MHA = {"kind": "mha", "heads": 2, "head_dim": 3}


@pytest.mark.parametrize("side", [True, False], ids=["side", "no-side"])
@pytest.mark.parametrize(
    "config",
    [DIN | FUSED, DIN | SIDE, DIN | SIDE | FUSED, MHA | FUSED, MHA | SIDE, {"kind": "mean"} | SIDE],
    ids=["din-sa-ta", "din-side", "din-both", "mha-sa-ta", "mha-side", "mean-side"],
)
def test_similarity_in_the_attention_equals_the_reference(config, side):
    e = make_evidence(side=side)
    module = interest(e, **config)
    found = module(e)
    assert_same(found, reference(module, e), [*module.parameters(), *leaves(e).values()])


def test_din_without_softmax_takes_fused_scores_as_weights():
    e = make_evidence()
    module = interest(e, **(DIN | FUSED | {"softmax": False}))
    assert_same(module(e), reference(module, e, softmax=False), [*module.parameters(), *leaves(e).values()])


def best(scores, top, eligible=None):
    """The `top` best of a history, later ones first among equals, in order of time."""
    places = [i for i in range(len(scores)) if eligible is None or eligible[i]]
    return sorted(sorted(places, key=lambda i: (-float(scores[i]), -i))[:top])


def expected_kept(search, module, e):
    b, kept = e.behaviours["seq"], []
    for i, h in enumerate(histories(e)):
        mine = b.sequence.row == i
        q, keys = b.query_BD[i], b.items_UD[b.sequence.item[mine]]
        if search["kind"] == "cosine":
            kept.append(best(h.cos.detach(), 2, h.comparable))
        elif search["kind"] == "inner":
            kept.append(best((keys @ q).detach(), 2))
        elif search["kind"] == "simhash":
            r = module.search.projection
            kept.append(best(((keys @ r >= 0) == (q @ r >= 0)).sum(1), 2))
        else:
            same = b.sequence.numbers["same.genre"][mine]
            kept.append(best([0] * len(same), 2, same > 0))
    return kept


@pytest.mark.parametrize(
    "search",
    [
        {"kind": "cosine", "top": 2, "vectors": "image"},
        {"kind": "inner", "top": 2},
        {"kind": "category", "top": 2, "category": "genre"},
        {"kind": "simhash", "top": 2, "bits": 16},
    ],
    ids=lambda s: s["kind"],
)
@pytest.mark.parametrize("config", [DIN | FUSED, MHA, {"kind": "mean"}], ids=["din-sa-ta", "mha", "mean"])
def test_the_attention_sees_what_the_search_found(search, config):
    e, untouched = make_evidence(), make_evidence()
    for evidence in (e, untouched):
        s = evidence.behaviours["seq"].sequence
        s.numbers["same.genre"] = torch.rand(len(s.row), generator=torch.Generator().manual_seed(4)).round()
    module = interest(e, search=search, **config)
    kept = expected_kept(search, module, e)
    found = module(e)
    assert e.behaviours["seq"].sequence.lengths.tolist() == [len(k) for k in kept]
    assert max(map(len, kept)) == 2 and not kept[0]
    inputs = [*leaves(untouched).values()]
    expected = reference(module, untouched, kept)
    assert torch.allclose(found, expected, atol=1e-9)
    up = torch.randn_like(found)
    ours = torch.autograd.grad((found * up).sum(), list(leaves(e).values()), allow_unused=True)
    theirs = torch.autograd.grad((expected * up).sum(), inputs, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None or not a.any()) if b is None else torch.allclose(a, b, atol=1e-9)
    if search["kind"] == "cosine":
        assert e.cosines("image", "seq").known.all() and len(e.cosines("image", "seq").values) == sum(map(len, kept))


def test_what_comes_after_a_search_sees_its_behaviours_alone():
    e = make_evidence()
    interest(e, search={"kind": "inner", "top": 3}, **DIN)(e)
    s = e.behaviours["seq"].sequence
    assert s.lengths.tolist() == [0, 1, 3, 3, 0, 3, 3] and len(s.numbers["surprise"]) == len(s.row) == 13
    assert len(e.cosines("image", "seq").values) == 13
