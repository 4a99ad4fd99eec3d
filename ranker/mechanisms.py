"""Content mechanisms by the `kind` of their configuration."""

from torch import Tensor, nn

from ranker.concatenation import Concatenation
from ranker.content_config import Concat, ContentQuality, Cube, Mechanism, SimTierHistogram
from ranker.content_quality import QualityHead
from ranker.cube import CubeExtractor
from ranker.mechanism import Evidence
from ranker.residual_interest import ResidualEvidence
from ranker.simtier import SimTier


class SimTierOfTarget(nn.Module):
    """SimTier of one sequence against the target; with two histograms if the behaviours' number splits them."""

    def __init__(self, config: SimTierHistogram) -> None:
        super().__init__()
        self.config = config
        self.histogram = SimTier(1 if config.split_by is None else 2)
        self.width = self.histogram.width

    def forward(self, evidence: Evidence) -> Tensor:
        """-> (B, width)."""
        sequence = evidence.behaviours[self.config.sequence].sequence
        found = evidence.cosines(self.config.vectors, self.config.sequence)
        split = self.config.split_by
        return self.histogram(found, sequence, None if split is None else (sequence.numbers[split] > 0).long())


def mechanism(config: Mechanism, vector_dims: dict[str, int], embedding_dims: dict[str, int]) -> nn.Module:
    """The module of one entry of `model.content`.

    vector_dims: by store. embedding_dims: width of a behaviour's embedding, by sequence.
    """
    dim = vector_dims[config.vectors]
    if isinstance(config, Concat):
        return Concatenation(config.vectors, dim)
    if isinstance(config, ContentQuality):
        return QualityHead(config, dim)
    if isinstance(config, SimTierHistogram):
        return SimTierOfTarget(config)
    if isinstance(config, Cube):
        return CubeExtractor(config, embedding_dims, dim)
    return ResidualEvidence(config)
