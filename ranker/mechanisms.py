"""Content mechanisms by the `kind` of their configuration."""

from torch import Tensor, nn

from features.spec import FeatureSpec, code_names
from ranker.concatenation import Concatenation
from ranker.content_config import Concat, ContentQuality, Cube, Make, Mechanism, SemanticIds, SimTierHistogram
from ranker.content_quality import QualityHead
from ranker.cube import CubeExtractor
from ranker.make import MakeExtractor
from ranker.mechanism import Evidence, Widths
from ranker.residual_interest import ResidualEvidence
from ranker.semantic_ids import SemanticIdInterest
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


def mechanism(config: Mechanism, widths: Widths, spec: FeatureSpec) -> nn.Module:
    """The module of one entry of `model.content`."""
    dim = widths.vectors[config.vectors]
    if isinstance(config, Concat):
        return Concatenation(config.vectors, dim)
    if isinstance(config, ContentQuality):
        return QualityHead(config, dim)
    if isinstance(config, SimTierHistogram):
        return SimTierOfTarget(config)
    if isinstance(config, Cube):
        embedding_dims = {name: widths.items[name] + widths.sides[name] for name in widths.items}
        return CubeExtractor(config, embedding_dims, dim)
    if isinstance(config, Make):
        return MakeExtractor(config, dim)
    if isinstance(config, SemanticIds):
        names = next(code_names(vectors) for vectors in spec.vectors if vectors.name == config.vectors)
        return SemanticIdInterest(config, widths, names)
    return ResidualEvidence(config)
