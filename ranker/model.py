"""The ranker: tables -> interests -> interaction -> logit, assembled from a recipe.

Shape legend: B samples, U distinct items, N behaviours, D and E widths; see features/batch.py.
"""

import torch
from torch import Tensor, nn

from features.batch import Batch
from features.encoder import FeatureEncoder
from features.spec import BucketFeature, DenseFeature, FeatureSpec, IdFeature, is_item, side_name
from ranker.config import Recipe, SequenceModel
from ranker.interaction import Head, Tower
from ranker.jagged import segment_mean
from ranker.tables import Tables
from ranker.target_attention import Behaviours, sequence_module


class Ranker(nn.Module):
    """Click logit of each sample of a batch."""

    def __init__(self, recipe: Recipe, encoder: FeatureEncoder, device: torch.device) -> None:
        """`device`: where the tables' parameters start (meta, if they are to be sharded)."""
        super().__init__()
        spec = recipe.features
        self.spec: FeatureSpec = spec
        self.tables = Tables(encoder, device)
        dims = {feature: spec.table(table).dim for table, feature in spec.lookups()}
        lookups = [f for f in spec.features if isinstance(f, IdFeature | BucketFeature)]
        self.item_features = [f.name for f in lookups if is_item(f)]
        self.row_features = [f.name for f in lookups if not is_item(f)]
        width = sum(dims[f.name] for f in lookups) + sum(isinstance(f, DenseFeature) for f in spec.features)
        self.interests = nn.ModuleDict()
        for sequence in spec.sequences:
            config = recipe.model.sequences.get(sequence.name, SequenceModel())  # pyright: ignore[reportCallIssue]
            item_dim = sum(dims[f] for f in sequence.fields)
            side_dim = sum(dims[side_name(sequence, f)] for f in sequence.side)
            module = sequence_module(item_dim, side_dim, config)
            self.interests[sequence.name] = module
            width += int(module.width)  # pyright: ignore[reportArgumentType]
        self.norm = nn.LayerNorm(width) if recipe.model.layer_norm else nn.Identity()
        tower = Tower(width, recipe.model.tower, recipe.model.activation, recipe.model.dropout)
        self.head = Head(width, tower, recipe.model.interaction)

    def forward(self, batch: Batch) -> Tensor:
        """-> logits (B,)."""
        return self.logits(self.tables(batch.ids), batch)

    def logits(self, rows: dict[str, Tensor], batch: Batch) -> Tensor:
        """-> logits (B,) from the rows that the tables gave; all that is computed and not looked up (exported so)."""
        return self.head(self.norm(self.inputs(rows, batch)))

    def inputs(self, rows: dict[str, Tensor], batch: Batch) -> Tensor:
        """The concatenated feature vector (B, width): sample features, target item, interests, dense."""
        rows = dict(rows)
        for name, lengths in batch.bags.items():
            rows[name] = segment_mean(rows[name], lengths)
        parts = [rows[name] for name in self.row_features]
        parts += [rows[name].index_select(0, batch.target) for name in self.item_features]
        for sequence in self.spec.sequences:
            items_UD = torch.cat([rows[f] for f in sequence.fields], 1)
            side = [rows[side_name(sequence, f)] for f in sequence.side]
            behaviours = Behaviours(
                batch.sequences[sequence.name],
                items_UD,
                torch.cat(side, 1) if side else None,
                items_UD.index_select(0, batch.target),
            )
            parts.append(self.interests[sequence.name](behaviours))
        parts.append(batch.dense)
        return torch.cat(parts, 1)
