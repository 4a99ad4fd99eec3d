"""Quality of the target as its vector foretells it: what an item that nobody has seen yet is worth."""

import torch
from torch import Tensor, nn

from ranker.content_config import ContentQuality
from ranker.interaction import Tower
from ranker.mechanism import Evidence


class QualityHead(nn.Module):
    """`[MLP(r_t), 1 if the target has a vector]`, (B, width + 1); MLP is trained by the click loss alone.

    It learns most where ids are dropped in training (`oov_rate` of the item table): a row without its id leaves the
    vector to explain the label.
    """

    def __init__(self, config: ContentQuality, vector_dim: int) -> None:
        super().__init__()
        self.vectors = config.vectors
        self.tower = Tower(vector_dim, config.hidden, "relu", config.dropout)
        self.output = nn.Linear(self.tower.width, config.width)
        self.width = config.width + 1

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width + 1); 0 where the target has no vector."""
        content = evidence.content[self.vectors]
        present = content.target_present_B.to(content.target_BM.dtype).unsqueeze(1)
        return torch.cat([self.output(self.tower(content.target_BM)) * present, present], 1)
