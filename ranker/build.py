"""Building a ranker: fresh from a recipe, or trained from a run directory."""

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from features.encoder import FeatureEncoder
from features.ranks import Ranks
from ranker.checkpoint import Checkpoints
from ranker.config import Recipe
from ranker.model import Ranker
from ranker.run_folder import RunFolder
from ranker.sharding import distribute


def build_ranker(
    recipe: Recipe, encoder: FeatureEncoder, ranks: Ranks
) -> tuple[DistributedModelParallel, ShardingPlan]:
    """A ranker with initial weights from the recipe's seed, sharded over the ranks."""
    torch.manual_seed(recipe.seed)
    model = Ranker(recipe, encoder, torch.device("meta"))
    return distribute(model, recipe, ranks)


def load_ranker(run: RunFolder, ranks: Ranks, which: str = "best") -> tuple[DistributedModelParallel, FeatureEncoder]:
    """The trained ranker of a run, in evaluation mode, and its feature encoder.

    Raises InputError if the run has no checkpoint.
    """
    recipe, encoder = run.recipe(), FeatureEncoder.load(run.encoder)
    model, _ = build_ranker(recipe, encoder, ranks)
    Checkpoints(run.checkpoints, encoder.fingerprint, ranks).load(which, model)
    return model.eval(), encoder
