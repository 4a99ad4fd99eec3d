"""Cosines of behaviours with a target or a query, by index pairs: the (N, M) rows of the pairs are never kept.

Shape legend: B samples, U distinct items, N behaviours, M vector width.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from features.batch import SequenceBatch, Shared
from ranker.item_vectors import Content
from ranker.jagged import gathered_sum
from ranker.over_history import of_behaviours, of_pairs, of_samples

ABSENT = -4.0  # far from any cosine
CHUNK = 8192  # pairs gathered at a time where there is no fused kernel
warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)


@dataclass
class Cosines:
    """Similarity of every behaviour: values (N,), 0 where one of the two has no vector; known (N,) bool tells where."""

    values: Tensor
    known: Tensor


def cosines(sequence: SequenceBatch, content: Content, against: Content) -> Cosines:
    """`cos(r_b, r)` of each behaviour b of a sequence, its vectors in `content`, and its sample's target in `against`.

    The dot products are divided by the lengths afterwards: a number a pair, and no copies of the vectors.
    """
    if sequence.shared is not None:
        return _shared_cosines(sequence.item, sequence.shared, content, against)
    item, row = sequence.item, sequence.row
    values = pair_dots(content.items_UM, against.target_BM, sequence)
    values = values * content.inverse_length_U.index_select(0, item)
    values = values * against.target_inverse_length_B.index_select(0, row)
    known = content.present_U.index_select(0, item) & against.target_present_B.index_select(0, row)
    return Cosines(torch.where(known, values, 0), known)


def _shared_cosines(item: Tensor, shared: Shared, content: Content, against: Content) -> Cosines:
    """The same where samples share histories: one product. Two more columns of it tell where a vector is missing: there
    the dot product is ABSENT or less. Masks would do it as well, but are slow to gather by pairs."""
    absent_U, absent_B = ((~present).to(content.items_UM.dtype).unsqueeze(1) * ABSENT
                          for present in (content.present_U, against.target_present_B))  # fmt: skip
    tables = [content.unit_items_UM, absent_U, torch.ones_like(absent_U)]
    behaviours = of_behaviours([(table, item) for table in tables], shared)
    columns = [against.unit_target_BM, torch.ones_like(absent_B), absent_B]
    targets = torch.cat([of_samples(rows, shared) for rows in columns], 2)
    found = of_pairs(torch.bmm(targets, behaviours.transpose(1, 2)), shared)
    known = found > ABSENT / 2
    return Cosines(torch.where(known, found, 0), known)


def pair_dots(items_UM: Tensor, query_BM: Tensor, sequence: SequenceBatch) -> Tensor:
    """`items[item[n]] . query[row[n]]` of every behaviour n, (N,)."""
    if sequence.shared is not None:
        queries = of_samples(query_BM, sequence.shared)
        items = of_behaviours([(items_UM, sequence.item)], sequence.shared)
        return of_pairs(torch.bmm(queries, items.transpose(1, 2)), sequence.shared)
    if torch.compiler.is_exporting():
        return (items_UM.index_select(0, sequence.item) * query_BM.index_select(0, sequence.row)).sum(1)
    return _PairDots.apply(items_UM, query_BM, sequence.item, sequence.row, sequence.lengths)  # pyright: ignore


class _PairDots(torch.autograd.Function):
    """Saves the two tables and the pairs, nothing of size (N, M); both gradients are weighted sums by index."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, query: Tensor, item: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
        items, query = items.float() if items.dtype == torch.bfloat16 else items, query.to(items.dtype)
        ctx.save_for_backward(items, query, item, row, lengths)
        if items.device.type == "cpu" and 0 < len(item) <= len(query) * len(items):  # it holds no more pairs than cells
            return _sampled(items, query, item, lengths)
        return _chunked(items, query, item, row)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        items, query, item, row, lengths = ctx.saved_tensors
        grad = grads[0].to(items.dtype)
        to_items = to_query = None
        if ctx.needs_input_grad[0]:
            order = torch.argsort(item)
            uses = torch.bincount(item, minlength=len(items))
            to_items = gathered_sum(query, row[order], uses, grad[order])
        if ctx.needs_input_grad[1]:
            to_query = gathered_sum(items, item, lengths, grad)
        return to_items, to_query, None, None, None


def _sampled(items: Tensor, query: Tensor, item: Tensor, lengths: Tensor) -> Tensor:
    """The entries of `query @ items.T` at the pairs, by the sampled product of sparse matrices."""
    starts = torch.cat([lengths.new_zeros(1), torch.cumsum(lengths, 0)])
    pairs = torch.sparse_csr_tensor(
        starts, item, query.new_zeros(len(item)), (len(query), len(items)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(pairs, query, items.t(), beta=0.0).values()


def _chunked(items: Tensor, query: Tensor, item: Tensor, row: Tensor) -> Tensor:
    """The same by gathering CHUNK pairs at a time."""
    out = query.new_empty(len(item))
    for start in range(0, len(item), CHUNK):
        part = slice(start, start + CHUNK)
        torch.sum(items.index_select(0, item[part]) * query.index_select(0, row[part]), 1, out=out[part])
    return out
