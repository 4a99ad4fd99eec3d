"""The ranker: tables and vectors -> interests and content -> interaction -> logit, assembled from a recipe.

Shape legend: B samples, U distinct items, N behaviours, D and E widths; see features/batch.py.
"""

import torch
from torch import Tensor, nn

from features.batch import Batch
from features.encoder import FeatureEncoder
from features.spec import (
    SEARCHES,
    SEARCHES_QUERY,
    BucketFeature,
    DenseFeature,
    FeatureSpec,
    IdFeature,
    code_names,
    is_item,
    side_name,
)
from features.vector_source import VectorSource, require_one_encoder
from ranker.config import Recipe, SequenceModel
from ranker.content_config import Cube
from ranker.interaction import Head, Tower
from ranker.item_vectors import VectorTables, is_stored
from ranker.jagged import segment_mean
from ranker.mechanism import Evidence, Widths
from ranker.mechanisms import mechanism
from ranker.sequence_interest import SequenceInterest
from ranker.tables import Tables
from ranker.target_attention import Behaviours, Side


class Ranker(nn.Module):
    """Click logit of each sample of a batch."""

    def __init__(
        self, recipe: Recipe, encoder: FeatureEncoder, sources: dict[str, VectorSource], device: torch.device
    ) -> None:
        """`device`: where the tables' parameters start (meta, if they are to be sharded)."""
        super().__init__()
        spec = recipe.features
        self.spec: FeatureSpec = spec
        self.tables = Tables(encoder, device, recipe.sharding.copied(spec.tables_in_use()))
        self.vectors = VectorTables(sources, device)
        dims = {feature: spec.table(table).dim for table, feature in spec.lookups()}
        lookups = [f for f in spec.features if isinstance(f, IdFeature | BucketFeature)]
        self.item_features = [f.name for f in lookups if is_item(f)]
        self.row_features = [f.name for f in lookups if not is_item(f)]
        width = sum(dims[f.name] for f in lookups) + sum(isinstance(f, DenseFeature) for f in spec.features)
        self.interests = nn.ModuleDict()
        codes = {v.name: sum(dims[name] for name in code_names(v)) for v in spec.vectors}
        widths = Widths(self.vectors.dims, codes, {}, {})
        for sequence in spec.sequences:
            config = recipe.model.sequences.get(sequence.name, SequenceModel())  # pyright: ignore[reportCallIssue]
            item_dim = sum(dims[f] for f in sequence.fields)
            side_dim = sum(dims[side_name(sequence, f)] for f in sequence.side)
            widths.items[sequence.name], widths.sides[sequence.name] = item_dim, side_dim
            module = SequenceInterest(sequence.name, item_dim, side_dim, config)
            self.interests[sequence.name] = module
            width += module.width
        if spec.searches:
            config = recipe.model.sequences.get(SEARCHES, SequenceModel())  # pyright: ignore[reportCallIssue]
            widths.items[SEARCHES], widths.sides[SEARCHES] = dims[SEARCHES_QUERY], 0
            module = SequenceInterest(SEARCHES, dims[SEARCHES_QUERY], 0, config)
            self.interests[SEARCHES] = module
            width += dims[SEARCHES_QUERY] + module.width
        for config in recipe.model.content:
            if isinstance(config, Cube) and config.queries is not None and sources:
                require_one_encoder(sources[config.vectors], sources[config.queries])
        self.content = nn.ModuleList(mechanism(config, widths, spec) for config in recipe.model.content)
        width += sum(int(module.width) for module in self.content)  # pyright: ignore[reportArgumentType]
        self.norm = nn.LayerNorm(width) if recipe.model.layer_norm else nn.Identity()
        tower = Tower(width, recipe.model.tower, recipe.model.activation, recipe.model.dropout)
        self.head = Head(width, tower, recipe.model.interaction)

    @property
    def stored(self) -> list[str]:
        """Names of the item vectors that are what their store holds, whatever was trained."""
        return [name for name, spec in self.vectors.specs.items() if is_stored(spec)]

    def rates(self) -> dict[str, float]:
        """Learning rates of modules, by path, that have one of their own."""
        specs = self.vectors.specs.items()
        return {f"vectors.projections.{name}": spec.lr for name, spec in specs if spec.lr and spec.mode == "projected"}

    def forward(self, batch: Batch, encoded: dict[str, Tensor] | None = None) -> Tensor:
        """-> logits (B,). `encoded`: of end_to_end vectors, those (B, M) of the targets by their encoder."""
        return self.logits(self.lookup(batch), batch, encoded)

    def lookup(self, batch: Batch) -> dict[str, Tensor]:
        """Rows of every table that the batch needs, by look-up; of item vectors by their name."""
        return self.tables(batch.ids) | self.vectors.lookup(batch)

    def logits(self, rows: dict[str, Tensor], batch: Batch, encoded: dict[str, Tensor] | None = None) -> Tensor:
        """-> logits (B,) from the rows that `lookup` gave; all that is computed and not looked up (exported so)."""
        return self.head(self.norm(self.inputs(rows, batch, encoded)))

    def inputs(self, rows: dict[str, Tensor], batch: Batch, encoded: dict[str, Tensor] | None = None) -> Tensor:
        """The concatenated feature vector (B, width): sample features, target item, interests, content, dense."""
        rows = dict(rows)
        for name, lengths in batch.bags.items():
            rows[name] = segment_mean(rows[name], lengths)
        parts = [rows[name] for name in self.row_features]
        parts += [rows[name].index_select(0, batch.target) for name in self.item_features]
        codes = {name: rows[name] for vectors in self.spec.vectors for name in code_names(vectors)}
        evidence = Evidence(batch, self.vectors(rows, batch, encoded), rows=codes)
        for sequence in self.spec.sequences:
            name, items_UD = sequence.name, torch.cat([rows[f] for f in sequence.fields], 1)
            found, side = batch.sequences[name], [rows[side_name(sequence, f)] for f in sequence.side]
            sides = (Side(torch.cat(side, 1), found.side),) if side and found.side is not None else ()
            query_BD = items_UD.index_select(0, batch.target)
            evidence.behaviours[name] = Behaviours(found, items_UD, sides, query_BD)
            parts.append(self.interests[name](evidence))
        if batch.queries is not None:
            queries_QD = rows[SEARCHES_QUERY]
            query_BD = queries_QD.index_select(0, batch.queries.target)
            evidence.behaviours[SEARCHES] = Behaviours(batch.queries.sequence, queries_QD, (), query_BD)
            parts += [query_BD, self.interests[SEARCHES](evidence)]
        parts += [module(evidence) for module in self.content]
        parts.append(batch.dense)
        return torch.cat(parts, 1)
