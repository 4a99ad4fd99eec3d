"""Building a ranker: fresh from a recipe, or trained from a run directory."""

import math
from pathlib import Path
from typing import Any

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from data.dataset import Dataset
from data.errors import InputError
from features.encoder import FeatureEncoder
from features.loader import Loader
from features.ranks import Ranks
from features.samples import SampleEncoder
from features.spec import FeatureSpec
from features.vector_source import VectorSource, open_sources
from ranker.checkpoint import Checkpoints, stored_prefixes
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders
from ranker.local_parts import table_of
from ranker.model import Ranker
from ranker.optimizer import dense_parameters
from ranker.run_folder import RunFolder
from ranker.sharding import distribute


def build_ranker(recipe: Recipe, samples: SampleEncoder, ranks: Ranks) -> tuple[DistributedModelParallel, ShardingPlan]:
    """A ranker with initial weights from the recipe's seed, sharded over the ranks."""
    torch.manual_seed(recipe.seed)
    model = Ranker(recipe, samples.encoder, samples.vectors, torch.device("meta"))
    return distribute(model, recipe, samples.vectors, ranks)


def train_loader(recipe: Recipe, samples: SampleEncoder, ranks: Ranks) -> Loader:
    """Batches of the train split in the order of the recipe's seed, this rank's share of each."""
    return Loader(
        samples,
        "train",
        recipe.train.batch_size,
        seed=recipe.seed,
        shuffle=True,
        rank=ranks.rank,
        world_size=ranks.world_size,
        workers=recipe.train.loader_workers,
        pinned=ranks.device.type == "cuda",
    )


def parameter_counts(model: DistributedModelParallel, encoders: ItemEncoders) -> dict[str, int]:
    """Numbers in the model: `tables` (trained, over all ranks), `vectors` (tables that no gradient reaches), `dense`
    (those of encoders that are trained included)."""
    dense = [*dense_parameters(model).values(), *encoders.parameters().values()]
    counts = {"dense": sum(p.numel() for p in dense), "tables": 0, "vectors": 0}
    stored = (*stored_prefixes(model), *(f"vectors.collections.{name}." for name in encoders.sources))
    for name, value in model.state_dict().items():
        if table_of(name):
            counts["vectors" if name.startswith(stored) else "tables"] += math.prod(value.size())
    return counts


def load_ranker(
    run: RunFolder, dataset: Dataset, ranks: Ranks, which: str = "best", stores: dict[str, Path] | None = None
) -> tuple[DistributedModelParallel, SampleEncoder]:
    """The trained ranker of a run, in evaluation mode, and the encoder of a dataset's samples for it.

    `stores`: representation stores by name, instead of those that the run recorded.
    Raises InputError if the run has no checkpoint, or for a store that does not fit.
    """
    recipe, encoder = run.recipe(), FeatureEncoder.load(run.encoder)
    samples = SampleEncoder(encoder, dataset, run_sources(run, encoder.spec, dataset, stores or {}))
    model, _ = build_ranker(recipe, samples, ranks)
    Checkpoints(run.checkpoints, encoder.fingerprint, ranks).load(which, model)
    return model.eval(), samples


def run_sources(
    run: RunFolder, spec: FeatureSpec, dataset: Dataset, stores: dict[str, Path], same: bool = False
) -> dict[str, VectorSource]:
    """The stores of a run: the recorded version at the recorded path, or the newest of those given instead.

    `same`: the recorded version of those given as well.
    Raises InputError for a store that is gone or unfit, or that holds vectors of another encoder.
    """
    recorded: dict[str, dict[str, Any]] = run.meta().get("stores", {})
    paths = {name: Path(facts["path"]) for name, facts in recorded.items()} | stores
    versions = {name: facts["version"] for name, facts in recorded.items() if same or name not in stores}
    sources = open_sources(spec, dataset, paths, versions)
    for name, source in sources.items():
        then, now = recorded[name], source.facts()
        for field in ("encoder", "dim") if name in stores and not same else ("fingerprint",):
            if then[field] != now[field]:
                raise InputError(
                    f"{source.root}: vectors {name!r} of {run.root} had {field} {then[field]}, this store has "
                    f"{now[field]}; give the run's own with --store {name}=DIR"
                )
    return sources
