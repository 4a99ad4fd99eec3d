"""One hidden layer of ReLU over pairs of rows, on a CPU, block by block: what DIN's attention (Zhou et al., arXiv
1706.06978, section 4.3; ranker.target_attention has the split of its first layer) spends its time in.

    score[n] = w . relu(Wp (query[row[n]] * items[item[n]]) + sum over terms of term[index[n]]) + b

Written as single operations, a dozen of them write and read all (N, H) numbers. Here a block of them stays in the
core's cache from its first product to its score; what the gradient needs is written out once: the hidden layer (N, H),
the products (N, D), and on the way back the gradients of both.

Shape legend: B samples, N pairs, U distinct items, T rows of a term, D item width, H hidden width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ranker.jagged import bags, grouped

BLOCK = 8192  # pairs: (BLOCK, 64) float32 is 2 MiB


def hidden_scores(
    query_BD: Tensor,
    items_UD: Tensor,
    row: Tensor,
    item: Tensor,
    product_HD: Tensor,
    output_H: Tensor,
    bias: Tensor,
    terms: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """-> scores (N,), as above; row, item (N,). `terms`: rows_TH and, (N,), the index of each pair's."""
    flat = [tensor for term in terms for tensor in term]
    return _HiddenScores.apply(query_BD, items_UD, row, item, product_HD, output_H, bias, *flat)  # pyright: ignore


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


class _HiddenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        items: Tensor,
        row: Tensor,
        item: Tensor,
        product: Tensor,
        output: Tensor,
        bias: Tensor,
        *terms: Tensor,
    ) -> Tensor:
        n = len(row)
        pairs_ND, hidden_NH = query.new_empty(n, query.size(1)), query.new_empty(n, len(output))
        scores = query.new_empty(n)
        for part in _blocks(n):
            pair, hidden = pairs_ND[part], hidden_NH[part]
            torch.mul(query.index_select(0, row[part]), items.index_select(0, item[part]), out=pair)
            torch.mm(pair, product.t(), out=hidden)
            for rows, index in zip(terms[::2], terms[1::2], strict=True):
                hidden += rows.index_select(0, index[part])
            hidden.relu_()
            torch.mv(hidden, output, out=scores[part])
        ctx.save_for_backward(query, items, row, item, product, output, pairs_ND, hidden_NH, *terms)
        return scores + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, items, row, item, product, output, pairs_ND, hidden_NH, *terms = ctx.saved_tensors
        grad = grads[0].contiguous()
        alive_NH = torch.empty_like(hidden_NH)  # 1 where the ReLU lets its input through
        to_query_ND, to_items_ND = torch.empty_like(pairs_ND), torch.empty_like(pairs_ND)
        weighted_HD = output.unsqueeze(1) * product
        to_product, to_output = torch.zeros_like(product), torch.zeros_like(output)
        for part in _blocks(len(row)):
            alive, g, pair = alive_NH[part], grad[part].unsqueeze(1), pairs_ND[part]
            to_output.addmv_(hidden_NH[part].t(), grad[part])
            torch.sign(hidden_NH[part], out=alive)
            to_product.addmm_(alive.t(), pair * g)
            to_pair = (alive @ weighted_HD).mul_(g)
            torch.mul(to_pair, items.index_select(0, item[part]), out=to_query_ND[part])
            torch.mul(to_pair, query.index_select(0, row[part]), out=to_items_ND[part])
        orders: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # one sort for all that share an index

        def summed(values: Tensor, index: Tensor, rows: int, weights: Tensor | None = None) -> Tensor:
            """Sums (rows, width) of the pairs' values that name each row."""
            key = (index.data_ptr(), rows)
            if key not in orders:
                orders[key] = grouped(index, rows)
            order, uses = orders[key]
            return bags(values, order, uses, None if weights is None else weights[order])

        to_query, to_items = summed(to_query_ND, row, len(query)), summed(to_items_ND, item, len(items))
        to_product *= output.unsqueeze(1)
        to_terms: list[Tensor | None] = []
        for rows, index in zip(terms[::2], terms[1::2], strict=True):
            to_terms += [summed(alive_NH, index, len(rows), grad).mul_(output), None]
        return to_query, to_items, None, None, to_product, to_output, grad.sum().reshape(1), *to_terms
