"""GradCache (Gao et al., arXiv 2101.06983): contrastive batches larger than memory, with the plain batch's gradient.

The vectors are computed part by part without a graph, the loss gives the gradient at the vectors, and each part is run
once more with its graph to carry that gradient on to the weights. Random numbers (dropout) are those of the first run.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moon_encoder.encoder import Encoder, Inputs


def backward(
    encoder: Encoder, batches: Sequence[Inputs], loss_of: Callable[[list[Tensor]], Tensor], rows: int | None
) -> Tensor:
    """Gradients of `loss_of` the vectors of `batches`, added to the weights; returns the loss, detached.

    rows: contents in memory at once; None: all of them, with no second run. The loss's own weights (a temperature)
    get their gradient as well.
    """
    if rows is None or sum(map(len, batches)) <= rows:
        loss = loss_of([encoder(batch) for batch in batches])
        loss.backward()
        return loss.detach()
    states: list[list[_RandomState]] = []
    leaves = []
    for batch in batches:
        parts, mine = [], []
        for part in in_parts(batch, rows):
            mine.append(_RandomState())
            with torch.no_grad():
                parts.append(encoder(part))
        states.append(mine)
        leaves.append(torch.cat(parts).requires_grad_())
    loss = loss_of(leaves)
    loss.backward()
    for batch, leaf, mine in zip(batches, leaves, states, strict=True):
        if leaf.grad is None:
            continue
        for part, state, grad in zip(in_parts(batch, rows), mine, leaf.grad.split(rows), strict=True):
            with state.restored():
                encoder(part).backward(grad)
    return loss.detach()


def in_parts(batch: Inputs, rows: int | None) -> list[Inputs]:
    """A batch in parts of so many contents; None: whole."""
    return [batch] if rows is None else [batch[at : at + rows] for at in range(0, len(batch), rows)]


class _RandomState:
    """The generators' states at its making."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restored(self) -> "_Restored":
        """Within: the generators as they were; after: as they are now."""
        return _Restored(self)


class _Restored:
    def __init__(self, state: _RandomState) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.now = _RandomState()
        _set(self.state)

    def __exit__(self, *_: object) -> None:
        _set(self.now)


def _set(state: _RandomState) -> None:
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)
