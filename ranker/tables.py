"""The embedding tables: TorchRec collections, one a table width, read once a step."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.encoder import FeatureEncoder


class Tables(nn.Module):
    """Looks every feature up in its (possibly shared) table.

    Tables of one width form one TorchRec EmbeddingCollection, whose parameters `ranker.sharding` lays out and whose
    optimizer runs inside the backward pass. Copied ones are dense parameters, whole on every rank.
    """

    def __init__(self, encoder: FeatureEncoder, device: torch.device, copied: Collection[str] = ()) -> None:
        """`copied`: tables that every rank has whole."""
        super().__init__()
        spec = encoder.spec
        self.copies = nn.ModuleDict()
        self._copied_lookups = {feature: table for table, feature in spec.lookups() if table in copied}
        users: dict[str, list[str]] = {}
        for table, feature in spec.lookups():
            users.setdefault(table, []).append(feature)
        by_dim: dict[int, list[EmbeddingConfig]] = {}
        for table, features in users.items():
            dim = spec.table(table).dim
            if table in copied:
                self.copies[table] = nn.Embedding(encoder.rows(table), dim, device=device)
                continue
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
        for name, keyed in self.keyed(ids).items():
            for feature, jagged in self.collections[name](keyed).items():
                found[feature] = jagged.values()
        for keyed in ids.values() if self._copied_lookups else ():
            for feature, values in _values(keyed).items():
                if feature in self._copied_lookups:
                    found[feature] = self.copies[self._copied_lookups[feature]](values)
        return found

    def keyed(self, ids: dict[int, KeyedJaggedTensor]) -> dict[str, KeyedJaggedTensor]:
        """By name of the collection, the ids that it is asked for: all but those of copied tables."""
        found = {f"dim{dim}": keyed for dim, keyed in ids.items()}
        if not self._copied_lookups:
            return found
        left = {name: self._without_copies(keyed) for name, keyed in found.items()}
        return {name: keyed for name, keyed in left.items() if keyed is not None}

    def _without_copies(self, keyed: KeyedJaggedTensor) -> KeyedJaggedTensor | None:
        values = {name: v for name, v in _values(keyed).items() if name not in self._copied_lookups}
        if not values:
            return None
        lengths = keyed.lengths().new_tensor([len(v) for v in values.values()])
        return KeyedJaggedTensor(list(values), torch.cat(list(values.values())), lengths=lengths)


def _values(keyed: KeyedJaggedTensor) -> dict[str, Tensor]:
    return dict(zip(keyed.keys(), torch.split(keyed.values(), keyed.length_per_key()), strict=True))
