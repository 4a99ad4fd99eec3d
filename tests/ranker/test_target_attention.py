"""Sequence models against plain float64 references on padded histories, written from the papers."""

import pytest
import torch
from torch import Tensor, nn

from features.batch import SequenceBatch
from ranker.config import SequenceModel
from ranker.target_attention import Behaviours, Side, sequence_module

D, E, U, S = 6, 4, 9, 5
LENGTHS = [0, 1, 7, 3, 0, 7]


def behaviours(lengths: list[int], seed: int = 0, side: bool = True) -> Behaviours:
    """Random jagged behaviours with gradients, float64."""
    g = torch.Generator().manual_seed(seed)
    n = torch.tensor(lengths)
    row = torch.repeat_interleave(torch.arange(len(lengths)), n)
    total = int(n.sum())
    item, combination = torch.randint(U, (total,), generator=g), torch.randint(S, (total,), generator=g)
    items = torch.randn(U, D, generator=g, dtype=torch.float64).requires_grad_()
    sides = torch.randn(S, E, generator=g, dtype=torch.float64).requires_grad_() if side else None
    query = torch.randn(len(lengths), D, generator=g, dtype=torch.float64).requires_grad_()
    found = (Side(sides, combination),) if sides is not None else ()
    return Behaviours(SequenceBatch(n, row, item, combination if side else None), items, found, query)


def rows_of(b: Behaviours, sample: int) -> tuple[Tensor, Tensor | None]:
    """Item rows (L, D) and side rows (L, E) of one sample's history."""
    mine = b.sequence.row == sample
    side = torch.cat([side.rows_SE[side.index[mine]] for side in b.sides], 1) if b.sides else None
    return b.items_UD[b.sequence.item[mine]], side


def din_reference(module: nn.Module, b: Behaviours, softmax: bool) -> Tensor:
    """Zhou et al., section 4.3: weight = MLP[q, k, q - k, q * k] (and the side), interest = sum of weight * value."""
    out = []
    for sample in range(len(b.sequence.lengths)):
        k, side = rows_of(b, sample)
        value = k if side is None else torch.cat([k, side], 1)
        if not len(k):
            out.append(value.new_zeros(module.width))  # pyright: ignore
            continue
        q = b.query_BD[sample].expand_as(k)
        hidden = torch.cat([q, k, q - k, q * k, *([] if side is None else [side])], 1)
        for layer, act in zip(module.layers, module.activations, strict=True):  # pyright: ignore
            hidden = act(layer(hidden))
        score = module.output(hidden).squeeze(1)  # pyright: ignore
        weight = torch.softmax(score, 0) if softmax else score
        out.append((weight.unsqueeze(1) * value).sum(0))
    return torch.stack(out)


def mha_reference(module: nn.Module, b: Behaviours) -> Tensor:
    """Vaswani et al., section 3.2.2, one query a sample."""
    out = []
    for sample in range(len(b.sequence.lengths)):
        k, side = rows_of(b, sample)
        if not len(k):
            out.append(k.new_zeros(module.width))  # pyright: ignore
            continue
        key, value = module.item_key(k), module.item_value(k)  # pyright: ignore
        if side is not None:
            key, value = key + module.side_key(side), value + module.side_value(side)  # pyright: ignore
        query = module.query(b.query_BD[sample])  # pyright: ignore
        heads = [t.unflatten(-1, (module.heads, module.head_dim)) for t in (query, key, value)]  # pyright: ignore
        weight = torch.softmax(torch.einsum("hd,lhd->lh", heads[0], heads[1]) / module.head_dim**0.5, 0)  # pyright: ignore
        out.append(torch.einsum("lh,lhd->hd", weight, heads[2]).flatten())
    return torch.stack(out)


def mean_reference(module: nn.Module, b: Behaviours) -> Tensor:
    """Mean over the history, 0 if empty."""
    out = []
    for sample in range(len(b.sequence.lengths)):
        k, side = rows_of(b, sample)
        value = k if side is None else torch.cat([k, side], 1)
        out.append(value.mean(0) if len(k) else value.new_zeros(module.width))  # pyright: ignore
    return torch.stack(out)


CONFIGS = [
    ({"kind": "din", "hidden": (8,), "softmax": False}, lambda m, b: din_reference(m, b, False)),
    ({"kind": "din", "hidden": (8, 5), "softmax": True}, lambda m, b: din_reference(m, b, True)),
    ({"kind": "din", "hidden": (8,), "activation": "prelu"}, lambda m, b: din_reference(m, b, False)),
    ({"kind": "din", "hidden": (8,), "activation": "sigmoid"}, lambda m, b: din_reference(m, b, False)),
    ({"kind": "mha", "heads": 3, "head_dim": 4}, mha_reference),
    ({"kind": "mean"}, mean_reference),
]
IDS = ["din", "din-softmax", "din-prelu", "din-sigmoid", "mha", "mean"]


@pytest.mark.parametrize("side", [True, False], ids=["side", "no-side"])
@pytest.mark.parametrize(("config", "reference"), CONFIGS, ids=IDS)
def test_equals_the_reference_forward_and_backward(config, reference, side):
    torch.manual_seed(1)
    b = behaviours(LENGTHS, side=side)
    module = sequence_module(D, E if side else 0, SequenceModel(**config)).double()
    inputs = [b.items_UD, b.query_BD, *(side.rows_SE for side in b.sides), *module.parameters()]
    upstream = torch.randn(len(LENGTHS), module.width, dtype=torch.float64)  # pyright: ignore
    found, expected = module(b), reference(module, b)
    assert torch.allclose(found, expected, atol=1e-9)
    ours = torch.autograd.grad((found * upstream).sum(), inputs, allow_unused=True)
    theirs = torch.autograd.grad((expected * upstream).sum(), inputs, allow_unused=True)
    for a, e in zip(ours, theirs, strict=True):
        assert (a is None or not a.any()) if e is None else torch.allclose(a, e, atol=1e-9)


@pytest.mark.parametrize("softmax", [True, False])
def test_dice_equals_its_definition_over_all_real_behaviours(softmax):
    """Statistics run over the N behaviours that exist; padding would have moved them."""
    torch.manual_seed(2)
    b = behaviours(LENGTHS, side=False)
    module = sequence_module(D, 0, SequenceModel(kind="din", hidden=(8,), activation="dice", softmax=softmax)).double()  # pyright: ignore
    dice = module.activations[0]  # pyright: ignore
    with torch.no_grad():
        dice.alpha.uniform_(-0.5, 0.5)
    k, q = b.items_UD[b.sequence.item], b.query_BD[b.sequence.row]
    x = module.layers[0](torch.cat([q, k, q - k, q * k], 1))  # pyright: ignore
    p = torch.sigmoid((x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + dice.eps))
    score = module.output(p * x + (1 - p) * dice.alpha * x).squeeze(1)  # pyright: ignore
    out = torch.zeros(len(LENGTHS), D, dtype=torch.float64)
    for sample in range(len(LENGTHS)):
        mine = b.sequence.row == sample
        weight = torch.softmax(score[mine], 0) if softmax else score[mine]
        out[sample] = (weight.unsqueeze(1) * k[mine]).sum(0)
    assert torch.allclose(module(b), out, atol=1e-9)


@pytest.mark.parametrize(("config", "reference"), CONFIGS, ids=IDS)
def test_neighbours_in_the_batch_change_nothing(config, reference):
    """A sample's interest is the same alone, among full histories, and among empty ones."""
    torch.manual_seed(3)
    b = behaviours(LENGTHS)
    module = sequence_module(D, E, SequenceModel(**config)).double().eval()
    together = module(b)
    for sample, length in enumerate(LENGTHS):
        mine = b.sequence.row == sample
        sides = tuple(Side(side.rows_SE, side.index[mine]) for side in b.sides)
        alone = SequenceBatch(torch.tensor([length]), b.sequence.row[mine] * 0, b.sequence.item[mine])
        found = module(Behaviours(alone, b.items_UD, sides, b.query_BD[sample : sample + 1]))
        assert torch.allclose(found[0], together[sample], atol=1e-12)
        if not length:
            assert not found.any()


@pytest.mark.parametrize("softmax", [True, False])
def test_din_equals_padded_matrices_wherever_the_padding_stands(softmax):
    """The usual padded, masked DIN gives the same from the left, from the right, or with padding anywhere between."""
    torch.manual_seed(4)
    b, room = behaviours(LENGTHS), max(LENGTHS) + 3
    module = sequence_module(D, E, SequenceModel(kind="din", hidden=(8,), softmax=softmax)).double()  # pyright: ignore
    found = module(b)
    anywhere = [lambda n: torch.randperm(room)[:n].sort().values] * 3
    for slots in (lambda n: torch.arange(n), lambda n: torch.arange(room - n, room), *anywhere):
        value = torch.randn(len(LENGTHS), room, D + E, dtype=torch.float64) * 1e3
        mask = torch.zeros(len(LENGTHS), room, dtype=torch.bool)
        for sample, length in enumerate(LENGTHS):
            rows, side = rows_of(b, sample)
            mask[sample, slots(length)] = True
            value[sample, mask[sample]] = torch.cat([rows, side], 1).detach()  # pyright: ignore
        q, k = b.query_BD.unsqueeze(1).expand(-1, room, -1), value[..., :D]
        hidden = torch.relu(module.layers[0](torch.cat([q, k, q - k, q * k, value[..., D:]], 2)))  # pyright: ignore
        score = module.output(hidden).squeeze(2)  # pyright: ignore
        weight = torch.softmax(score.masked_fill(~mask, float("-inf")), 1).nan_to_num() if softmax else score * mask
        assert torch.allclose(found, (weight.unsqueeze(2) * value).sum(1), atol=1e-9)


@pytest.mark.parametrize(("config", "reference"), CONFIGS[:5], ids=IDS[:5])
def test_a_batch_of_empty_histories_has_finite_zero_gradients(config, reference):
    b = behaviours([0, 0, 0])
    module = sequence_module(D, E, SequenceModel(**config)).double()
    out = module(b)
    assert out.shape == (3, module.width) and not out.any()  # pyright: ignore
    out.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in [b.items_UD, b.query_BD, *module.parameters()])
