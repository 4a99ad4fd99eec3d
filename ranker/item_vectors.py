"""Multimodal vectors of a batch's items: TorchRec tables filled from representation stores, and how they may change.

Shape legend: B samples, U distinct items, M vector width; see features/batch.py.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch
from features.spec import ItemVectors
from features.vector_source import MISSING, VectorSource

SHORTEST = 1e-12  # length below which a vector counts as this long


@dataclass
class Content:
    """The vectors of one store in one batch.

    Attributes:
        items_UM: vectors of the distinct items, 0 where missing. present_U: bool mask of those that have one.
        target_BM, target_present_B: the same of each sample's target.
        Of a store of queries: the distinct queries, and each sample's query.
    """

    items_UM: Tensor
    present_U: Tensor
    target_BM: Tensor
    target_present_B: Tensor

    @cached_property
    def inverse_length_U(self) -> Tensor:
        """One by the length of each of items_UM."""
        return _inverse_lengths(self.items_UM)

    @cached_property
    def target_inverse_length_B(self) -> Tensor:
        """One by the length of each of target_BM."""
        return _inverse_lengths(self.target_BM)

    @cached_property
    def unit_items_UM(self) -> Tensor:
        """items_UM scaled to length 1 (0 where missing): a dot product of two is their cosine."""
        return self.items_UM * self.inverse_length_U.unsqueeze(1)

    @cached_property
    def unit_target_BM(self) -> Tensor:
        """target_BM scaled to length 1 (0 where missing)."""
        return self.target_BM * self.target_inverse_length_B.unsqueeze(1)


def _inverse_lengths(vectors: Tensor) -> Tensor:
    """(n,) of vectors (n, M); large, but finite, for a vector of zeros."""
    return 1 / torch.linalg.vector_norm(vectors, dim=1).clamp(min=SHORTEST)


class Projection(nn.Module):
    """`r + MLP(r)`, a trained residual of frozen vectors (n, M) -> (n, M); it starts as the identity.

    A tower trained by the click loss alone collapses (all vectors alike); the residual keeps what the encoder knows.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in pairwise([dim, *hidden]):
            layers += [nn.Linear(i, o), nn.ReLU()]
        last = nn.Linear(hidden[-1], dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, M) -> (n, M)."""
        return vectors + self.layers(vectors)


class VectorTables(nn.Module):
    """Looks up the vectors of a batch's distinct items, once each, in one TorchRec table a store.

    `frozen` and `projected` tables have no optimizer and get no gradient; a `finetuned` one is trained in the
    backward pass like any id table, and only rows that a batch touches move; an `end_to_end` one gets no gradient
    either, its encoder writes it (ranker.end_to_end).
    """

    def __init__(self, sources: dict[str, VectorSource], device: torch.device) -> None:
        super().__init__()
        self.specs: dict[str, ItemVectors] = {name: source.spec for name, source in sources.items()}
        self.dims = {name: source.dim for name, source in sources.items()}
        self.collections = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        for name, source in sources.items():
            config = EmbeddingConfig(
                name=name, embedding_dim=source.dim, num_embeddings=source.table_rows, feature_names=[name]
            )
            self.collections[name] = EmbeddingCollection(tables=[config], device=device)
            if source.spec.mode == "projected":
                self.projections[name] = Projection(source.dim, source.spec.projection)

    def lookup(self, batch: Batch) -> dict[str, Tensor]:
        """Rows (U, M) of every table, by name, as they are stored; with a gradient where the table is trained."""
        found = {}
        for name, keyed in self.keyed(batch).items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(self.specs[name])):
                found[name] = self.collections[name](keyed)[name].values()
        return found

    def keyed(self, batch: Batch) -> dict[str, KeyedJaggedTensor]:
        """By name, the rows that each table is asked for."""
        return {
            name: KeyedJaggedTensor(keys=[name], values=rows, lengths=rows.new_full((1,), len(rows)))
            for name, rows in batch.vectors.items()
        }

    def forward(
        self, rows: dict[str, Tensor], batch: Batch, encoded: dict[str, Tensor] | None = None
    ) -> dict[str, Content]:
        """The content of every store, by name, from the rows that `lookup` gave.

        `encoded`: by name, vectors (B, M) of the targets as their encoder makes them, in place of the table's.
        """
        found = {}
        for name, ids in batch.vectors.items():
            present_U, items_UM = ids != MISSING, rows[name]
            if name in self.projections:
                items_UM = self.projections[name](items_UM)
            items_UM = torch.where(present_U.unsqueeze(1), items_UM, 0)
            queries = batch.queries if self.specs[name].of == "queries" else None
            target = batch.target if queries is None else queries.target
            target_BM = encoded[name] if encoded and name in encoded else items_UM.index_select(0, target)
            found[name] = Content(items_UM, present_U, target_BM, present_U.index_select(0, target))
        return found


def is_trained(spec: ItemVectors) -> bool:
    """Whether the table itself has an optimizer."""
    return spec.mode == "finetuned"


def is_stored(spec: ItemVectors) -> bool:
    """Whether the table holds what its store does, whatever was trained."""
    return spec.mode in ("frozen", "projected")
