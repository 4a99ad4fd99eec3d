"""The target's vector as a plain input: what a mechanism has to beat."""

import torch
from torch import Tensor, nn

from ranker.mechanism import Evidence


class Concatenation(nn.Module):
    """`[r_t, 1 if the target has a vector]`, (B, M + 1)."""

    def __init__(self, vectors: str, dim: int) -> None:
        super().__init__()
        self.vectors, self.width = vectors, dim + 1

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, M + 1); 0 where the target has no vector."""
        content = evidence.content[self.vectors]
        return torch.cat([content.target_BM, content.target_present_B.to(content.target_BM.dtype).unsqueeze(1)], 1)
