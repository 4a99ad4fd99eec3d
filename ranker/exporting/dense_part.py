"""The computed part of a ranker as an exported program: everything after the look-ups, sizes dynamic."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from features.batch import Batch
from ranker.model import Ranker
from ranker.serving.dense_inputs import nested_inputs, with_shared

SMALLEST = 2
MANY = 1 << 15
SEQUENCES, OF_SAMPLES, RECTANGLES = "sequences.", (".lengths", ".place"), (".samples", ".behaviours")


class DensePart(nn.Module):
    """Logits (B,) float32 from the flat dictionary of ranker.serving.dense_inputs."""

    def __init__(self, ranker: Ranker, like: Batch, dtype: torch.dtype = torch.float32) -> None:
        """`ranker`: loses its tables here. `like`: a batch of its structure. `dtype`: of weights and arithmetic."""
        super().__init__()
        self.dtype, self.like = dtype, with_shared(like)
        ranker.tables = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        ranker.vectors.collections = nn.ModuleDict()
        self.ranker = ranker.eval().to(dtype).requires_grad_(False)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """-> logits (B,)."""
        cast = {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in inputs.items()}
        return self.ranker.logits(*nested_inputs(cast, self.like)).float()


def exported(part: DensePart, inputs: dict[str, Tensor]) -> ExportedProgram:
    """The program of `part`, valid for any number of samples, items, behaviours and values, zero included.

    A size of 0 or 1 in the example would be taken for a constant, so such tensors are traced with two rows (only shapes
    are traced, never values). The program has no case for small sizes: the parity test runs it on them. Behaviours are
    traced with MANY: a sort of fewer is compiled with 16-bit indices and then refuses more.
    """
    example = {name: _grown(name, tensor) for name, tensor in inputs.items()}
    shapes = {name: dict.fromkeys(_dynamic(name), Dim.DYNAMIC) for name in example}
    with torch.no_grad():
        return torch.export.export(part, (example,), dynamic_shapes=(shapes,))


def _dynamic(name: str) -> tuple[int, ...]:
    """Axes whose sizes are a batch's own."""
    return (0, 1) if name.endswith(RECTANGLES) else (0,)


def _grown(name: str, tensor: Tensor) -> Tensor:
    of_behaviours = name.startswith(SEQUENCES) and not name.endswith((*RECTANGLES, *OF_SAMPLES))
    sizes = list(tensor.shape)
    for axis in _dynamic(name):
        sizes[axis] = max(sizes[axis], MANY if of_behaviours else SMALLEST)
    return tensor if sizes == list(tensor.shape) else tensor.new_zeros(sizes)
