"""The computed part of a ranker as an exported program: everything after the look-ups, sizes dynamic."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from features.batch import Batch
from ranker.model import Ranker
from ranker.serving.dense_inputs import nested_inputs

SMALLEST = 2
SEQUENCES, LENGTHS, MANY = "sequences.", ".lengths", 1 << 15


class DensePart(nn.Module):
    """Logits (B,) float32 from the flat dictionary of ranker.serving.dense_inputs."""

    def __init__(self, ranker: Ranker, like: Batch, dtype: torch.dtype = torch.float32) -> None:
        """`ranker`: loses its tables here. `like`: a batch of its structure. `dtype`: of weights and arithmetic."""
        super().__init__()
        self.dtype, self.like = dtype, like
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
    example = {name: _grown(tensor, _least(name)) for name, tensor in inputs.items()}
    shapes = {name: {0: Dim.DYNAMIC} for name in example}
    with torch.no_grad():
        return torch.export.export(part, (example,), dynamic_shapes=(shapes,))


def _least(name: str) -> int:
    return MANY if name.startswith(SEQUENCES) and not name.endswith(LENGTHS) else SMALLEST


def _grown(tensor: Tensor, rows: int) -> Tensor:
    return tensor if tensor.size(0) >= rows else tensor.new_zeros(rows, *tensor.shape[1:])
