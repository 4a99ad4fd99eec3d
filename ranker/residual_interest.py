"""Residual interest: what the user thought of items that look like the target, against what was to be expected.

A behaviour's number v (its surprise: label minus the item's rate as it was then; see features/surprise.py) is signed,
so disliked items speak as liked ones do. With the user's own mean u taken off, the estimate at temperature t is a
shrunk kernel regression (Nadaraya 1964; Watson 1964):

    u = sum_b v_b / (n + p)        w_tb = exp((s_b - 1) / t)
    r_t = sum_b w_tb (v_b - u) / (sum_b w_tb + m_t)        mass_t = log(1 + sum_b w_tb)

with learned t, m_t and p; s_b = cos(r_b, target). A behaviour that cannot be compared counts for u only.
"""

import torch
from torch import Tensor, nn

from ranker.content_config import ResidualInterest
from ranker.jagged import segment_sum
from ranker.mechanism import Evidence

GAIN = 4.0  # estimates are differences of rates, about a quarter wide: this brings them to unit scale


class ResidualEvidence(nn.Module):
    """`[r_1..r_T, mass_1..mass_T, u]`, (B, 2 T + 1), of one store, sequence and number."""

    def __init__(self, config: ResidualInterest) -> None:
        super().__init__()
        self.vectors, self.sequence, self.number = config.vectors, config.sequence, config.number
        kernels = len(config.temperatures)
        self.log_temperature = nn.Parameter(torch.tensor(config.temperatures).log())
        self.log_shrinkage = nn.Parameter(torch.full((kernels,), config.shrinkage).log())
        self.log_prior = nn.Parameter(torch.tensor(config.prior).log())
        self.width = 2 * kernels + 1

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, 2 T + 1); 0 for an empty history."""
        s = evidence.behaviours[self.sequence].sequence
        found = evidence.cosines(self.vectors, self.sequence)
        value = s.numbers[self.number].to(found.values.dtype)
        mean = segment_sum(value, s.lengths) / (s.lengths + torch.exp(self.log_prior))
        kernel = torch.exp((found.values.unsqueeze(1) - 1) * torch.exp(-self.log_temperature))
        kernel = kernel * found.known.unsqueeze(1)
        residual = (value - mean.index_select(0, s.row)).unsqueeze(1)
        mass, total = segment_sum(torch.cat([kernel, kernel * residual], 1), s.lengths).chunk(2, 1)
        estimate = total / (mass + torch.exp(self.log_shrinkage))
        return torch.cat([GAIN * estimate, torch.log1p(mass), GAIN * mean.unsqueeze(1)], 1)
