"""The embedding tables: TorchRec collections, one a table width, read once a step."""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.encoder import FeatureEncoder


class Tables(nn.Module):
    """Looks every feature up in its (possibly shared) table.

    Tables of one width form one TorchRec EmbeddingCollection, whose parameters `ranker.sharding` lays out and whose
    optimizer runs inside the backward pass.
    """

    def __init__(self, encoder: FeatureEncoder, device: torch.device) -> None:
        super().__init__()
        spec = encoder.spec
        users: dict[str, list[str]] = {}
        for table, feature in spec.lookups():
            users.setdefault(table, []).append(feature)
        by_dim: dict[int, list[EmbeddingConfig]] = {}
        for table, features in users.items():
            dim = spec.table(table).dim
            config = EmbeddingConfig(
                name=table, embedding_dim=dim, num_embeddings=encoder.rows(table), feature_names=features
            )
            by_dim.setdefault(dim, []).append(config)
        self.collections = nn.ModuleDict(
            {f"dim{dim}": EmbeddingCollection(tables=configs, device=device) for dim, configs in by_dim.items()}
        )

    def forward(self, ids: dict[int, KeyedJaggedTensor]) -> dict[str, Tensor]:
        """ids by table width -> rows (V, D) of every look-up."""
        found: dict[str, Tensor] = {}
        for dim, keyed in ids.items():
            for name, jagged in self.collections[f"dim{dim}"](keyed).items():
                found[name] = jagged.values()
        return found
