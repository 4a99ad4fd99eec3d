"""Semantic ids of item vectors as trainable ids, and attention over the behaviours' (QARM, arXiv 2411.11739).

Shape legend: B samples, U distinct items, C width of all levels' embeddings of an item, E side width.
"""

import torch
from torch import Tensor, nn

from ranker.config import SequenceModel
from ranker.content_config import SemanticIds
from ranker.mechanism import Evidence, Widths
from ranker.target_attention import DIN, Behaviours


class SemanticIdInterest(nn.Module):
    """`[c_t, 1 if the target has a vector, DIN(q = c_t, k = v = c_b)]`, (B, 2 C + E + 1).

    c is the concatenation of the embeddings of an item's codes, one table a level. Behaviours whose item has no vector
    are not there for the attention; their sides (a rating, say) go beside c_b as in any sequence.
    """

    def __init__(self, config: SemanticIds, widths: Widths, names: list[str]) -> None:
        """`names`: look-ups of the codes, by level."""
        super().__init__()
        self.vectors, self.sequence, self.names = config.vectors, config.sequence, names
        code_dim = widths.codes[config.vectors]
        attention = SequenceModel(kind="din", hidden=config.hidden, softmax=True)  # pyright: ignore[reportCallIssue]
        self.attention = DIN(code_dim, widths.sides[config.sequence], attention)
        self.width = code_dim + 1 + self.attention.width

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width); 0 where the target has no vector, and where no behaviour has one."""
        content, b = evidence.content[self.vectors], evidence.behaviours[self.sequence]
        present_U = content.present_U.unsqueeze(1)
        codes_UC = torch.cat([evidence.rows[name] for name in self.names], 1)
        codes_UC = torch.where(present_U, codes_UC, 0)
        target_BC = codes_UC.index_select(0, evidence.batch.target)
        known = content.present_U.index_select(0, b.sequence.item).nonzero().squeeze(1)
        interest = self.attention(Behaviours(b.sequence, codes_UC, b.sides, target_BC).take(known))
        present_B = content.target_present_B.to(codes_UC.dtype).unsqueeze(1)
        return torch.cat([target_BC, present_B, interest], 1)
