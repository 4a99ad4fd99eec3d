"""MAKE: a ranker of item vectors alone, trained for many epochs before the ids (Sheng et al., arXiv 2407.19467).

Ids overfit after one pass and vectors need many; so a DIN that sees nothing but vectors is trained first
(ranker/make_training.py), and what it then makes of a sample enters the id model as input.

Shape legend: B samples, U distinct items, N behaviours, M vector width, P projected width, A numbers of a behaviour.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from features.batch import SequenceBatch
from ranker.config import SequenceModel
from ranker.content_config import Make
from ranker.item_vectors import Content
from ranker.mechanism import Evidence
from ranker.target_attention import DIN, Behaviours, Side


class MakeExtractor(nn.Module):
    """`[v, h_1, .., h_n, logit]` of the vector model, (B, width); `make.logits` is what its own training looks at.

    With `p = W r / |r| + c`: `v = [p_t, i, 1 if the target has a vector]`, `i = DIN(q = p_t, k = v = p_b)` over the
    behaviours whose item has a vector (numbers such as their surprise beside p_b); h are the hidden layers of a tower
    over `[v, p_t * i]`. It sees the whole sequence, whatever a search leaves of it for others.
    """

    def __init__(self, config: Make, vector_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(vector_dim, config.width)
        attention = SequenceModel(kind="din", hidden=config.attention, softmax=True)  # pyright: ignore[reportCallIssue]
        self.attention = DIN(config.width, len(config.numbers), attention)
        width = config.width + self.attention.width + 1
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise([width + config.width, *config.tower]))
        self.output = nn.Linear(config.tower[-1], 1)
        self.width = width + sum(config.tower) + 1
        self.requires_grad_(config.then == "trained")

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width)."""
        content, sequence = evidence.content[self.config.vectors], evidence.batch.sequences[self.config.sequence]
        return torch.cat(self.layers(content, sequence, evidence.batch.target), 1)

    def logits(self, content: Content, sequence: SequenceBatch, target: Tensor) -> Tensor:
        """Click logits (B,) of the vector model."""
        return self.layers(content, sequence, target)[-1].squeeze(1)

    def layers(self, content: Content, sequence: SequenceBatch, target: Tensor) -> list[Tensor]:
        """v, every hidden layer and the logit, (B, width of each)."""
        present_B = content.target_present_B.unsqueeze(1)
        items_UP = self.projection(content.unit_items_UM)
        target_BP = torch.where(present_B, items_UP.index_select(0, target), 0)
        sides = ()
        if self.config.numbers:
            numbers_NA = torch.stack([sequence.numbers[n] for n in self.config.numbers], 1).to(items_UP.dtype)
            sides = (Side(numbers_NA, torch.arange(numbers_NA.size(0), device=numbers_NA.device)),)
        known = content.present_U.index_select(0, sequence.item).nonzero().squeeze(1)
        interest = self.attention(Behaviours(sequence, items_UP, sides, target_BP).take(known))
        v = torch.cat([target_BP, interest, present_B.to(target_BP.dtype)], 1)
        layers, h = [v], torch.cat([v, target_BP * interest[:, : self.config.width]], 1)
        for layer in self.hidden:
            h = torch.relu(layer(h))
            layers.append(h)
        return [*layers, self.output(h)]
