"""Random jagged evidence with empty histories and missing vectors, float64, and its padded view for references."""

from dataclasses import dataclass

import torch
from torch import Tensor

from features.batch import Batch, SequenceBatch
from ranker.item_vectors import Content
from ranker.mechanism import Evidence
from ranker.target_attention import Behaviours, Side

D, E, M, U, S = 6, 4, 8, 15, 5
LENGTHS = [0, 1, 9, 4, 0, 9, 3]
MISSING_ITEMS = [3, 7, 8]


def make_evidence(seed: int = 0, lengths: list[int] | None = None, side: bool = True) -> Evidence:
    """Evidence of one sequence `seq` and one store `image`; sample 3's target has no vector, nor has any item of 6."""
    g = torch.Generator().manual_seed(seed)
    n = torch.tensor(LENGTHS if lengths is None else lengths)
    total, samples = int(n.sum()), len(n)
    row = torch.repeat_interleave(torch.arange(samples), n)
    item = torch.randint(U, (total,), generator=g)
    target = torch.randint(U, (samples,), generator=g)
    if lengths is None:
        target[target == 3] = 4
        target[3] = 3
        item[row == 6] = torch.tensor(MISSING_ITEMS)
        item[row == 2] = torch.tensor([1, 1, *range(U - 7, U)])
        target[2] = 1  # a behaviour with cosine 1, twice
    vectors = torch.randn(U, M, generator=g, dtype=torch.float64)
    present = torch.ones(U, dtype=torch.bool)
    present[MISSING_ITEMS] = False
    vectors = (vectors * present.unsqueeze(1)).requires_grad_()
    combination = torch.randint(S, (total,), generator=g) if side else None
    numbers = {"surprise": torch.randn(total, generator=g, dtype=torch.float64)}
    sequence = SequenceBatch(n, row, item, combination, numbers)
    items = torch.randn(U, D, generator=g, dtype=torch.float64).requires_grad_()
    sides = torch.randn(S, E, generator=g, dtype=torch.float64).requires_grad_() if side else None
    found = (Side(sides, combination),) if sides is not None and combination is not None else ()
    behaviours = Behaviours(sequence, items, found, items.index_select(0, target))
    none = torch.zeros(samples)
    batch = Batch(none.long(), none, target, torch.arange(U), {}, {}, torch.zeros(samples, 0), {"seq": sequence})
    content = Content(vectors, present, vectors.index_select(0, target), present.index_select(0, target))
    return Evidence(batch, {"image": content}, {"seq": behaviours})


@dataclass
class History:
    """One sample: target vector r_t (M,), behaviours' vectors r_b (L, M) and embeddings e_b (L, D + E).

    comparable: (L,) bool, whether cos(r_b, r_t) exists. numbers: (L,) surprise.
    """

    r_t: Tensor
    r_b: Tensor
    e_b: Tensor
    comparable: Tensor
    numbers: Tensor

    @property
    def cos(self) -> Tensor:
        """cos(r_b, r_t), (L,); nan where it does not exist."""
        r_b = self.r_b[self.comparable]
        out = self.r_b.new_full((len(self.r_b),), torch.nan)
        out[self.comparable] = (r_b * self.r_t).sum(1) / (r_b.norm(dim=1) * self.r_t.norm())
        return out


def histories(e: Evidence) -> list[History]:
    """Every sample of the evidence, by plain loops."""
    b, c = e.behaviours["seq"], e.content["image"]
    out = []
    for sample in range(len(b.sequence.lengths)):
        mine = [i for i in range(len(b.sequence.row)) if b.sequence.row[i] == sample]
        items = b.sequence.item[mine]
        e_b = b.items_UD[items]
        e_b = torch.cat([e_b, *(side.rows_SE[side.index[mine]] for side in b.sides)], 1)
        target = e.batch.target[sample]
        comparable = c.present_U[items] & c.present_U[target]
        numbers = b.sequence.numbers["surprise"][mine]
        out.append(History(c.items_UM[target], c.items_UM[items], e_b, comparable, numbers))
    return out


def leaves(e: Evidence) -> dict[str, Tensor]:
    """The tensors that gradients may reach."""
    b = e.behaviours["seq"]
    found = {"vectors": e.content["image"].items_UM, "items": b.items_UD}
    return found | {f"side{i}": side.rows_SE for i, side in enumerate(b.sides)}


def gradients(out: Tensor, upstream: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
    """Gradients of a weighted sum of the output."""
    if not out.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad((out * upstream).sum(), inputs, allow_unused=True, retain_graph=True))


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor], tolerance: float = 1e-6) -> None:
    """Equal values and equal gradients to every input (no gradient = a zero one)."""
    assert found.shape == expected.shape and torch.isfinite(found).all()
    assert torch.allclose(found, expected, atol=tolerance, rtol=0)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(9), dtype=found.dtype)
    ours, theirs = gradients(found, upstream, inputs), gradients(expected, upstream, inputs)
    for a, b, leaf in zip(ours, theirs, inputs, strict=True):
        a, b = (torch.zeros_like(leaf) if g is None else g for g in (a, b))
        assert torch.isfinite(a).all() and torch.allclose(a, b, atol=tolerance, rtol=tolerance)
