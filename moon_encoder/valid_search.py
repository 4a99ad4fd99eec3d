"""Search on the valid or test pairs of a dataset: vectors of queries and of a gallery, ranks, figures."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from data.errors import InputError
from moon_encoder.encoder import Encoder, Inputs
from moon_encoder.held_out import TEST, VALID
from moon_encoder.pairs import CoOccurrence, Pairs, load_pairs, usable
from moon_encoder.posttrain_config import Search
from moon_encoder.recall import names, values
from moon_encoder.search import Held, Ranking, SameCode, rank
from moon_encoder.shown import PLAIN, Shown

ROWS = 128  # contents embedded at once


@dataclass(frozen=True)
class SearchTask:
    """A search made concrete.

    Attributes:
        search: what it is. pairs: the queries with their items. gallery: (N,) item indices, ascending, the items of
            `pairs` among them.
    """

    search: Search
    pairs: Pairs
    gallery: np.ndarray

    @classmethod
    def of(
        cls, search: Search, shown: Shown, parts: np.ndarray, rule: CoOccurrence, split: str, seed: int
    ) -> "SearchTask":
        """parts: (items,) of the held-out rule. Pairs that know no time are those of held-out items.

        Raises InputError if there are no such pairs.
        """
        contents = shown.contents
        allowed = np.ones(len(contents), dtype=bool)
        if search.source in ("given", "augmented"):
            allowed = parts == (VALID if split == "valid" else TEST)
        pairs = load_pairs(search.source, contents, split, rule, seed)  # type: ignore[arg-type]
        if not pairs.can_query(search.query):
            pairs = pairs[:0]
        everything = np.ones(len(contents), dtype=bool)
        pairs = usable(pairs, contents, search.query, search.item, everything)
        pairs = pairs[allowed[pairs.item]]
        if not len(pairs):
            raise InputError(f"{split} search {search.name!r}: the dataset has no such pairs in {split}")
        rng = np.random.default_rng([seed, 3])
        pairs = pairs[np.sort(rng.permutation(len(pairs))[: search.queries])]
        gallery = np.flatnonzero(contents.has(search.item))
        if search.gallery is not None:
            some = gallery[rng.permutation(len(gallery))[: search.gallery]]
            gallery = np.union1d(some, pairs.item)
        return cls(search, pairs, gallery)

    def vectors(self, shown: Shown) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of the queries (Q, D) and of the gallery (N, D)."""
        search, encoder = self.search, shown.encoder
        queries = embed(encoder, len(self.pairs), lambda r: shown.queries(self.pairs[r], search.query, PLAIN))
        gallery = embed(encoder, len(self.gallery), lambda r: shown.items(self.gallery[r], search.item))
        return queries, gallery

    def ranking(
        self, queries: torch.Tensor, gallery: torch.Tensor, product: np.ndarray, dim: int | None = None
    ) -> Ranking:
        """Where the right items stand by the cosine of the first `dim` numbers: the item, or any SKU of its product.

        product: (items,) codes, -1 unknown. The query's own item, if another is searched for, is left out.
        """
        code = np.where(product >= 0, product, -2 - np.arange(len(product)))
        code = np.unique(code, return_inverse=True)[1]
        own = self.pairs.query_item
        place = np.searchsorted(self.gallery, own).clip(max=len(self.gallery) - 1)
        other = (own >= 0) & (code[own] != code[self.pairs.item]) & (self.gallery[place] == own)
        right = SameCode(code[self.pairs.item], code[self.gallery])
        return rank(Held(queries, dim=dim), Held(gallery, dim=dim), right, own=np.where(other, place, -1))

    def figures(self, shown: Shown) -> dict[str, float]:
        """HR@K, precision@K, MRR with the sizes of queries and gallery, over whole vectors."""
        ranking = self.ranking(*self.vectors(shown), shown.contents.product)
        sizes: dict[str, float] = {"queries": len(self.pairs), "gallery": len(self.gallery)}
        return sizes | dict(zip(names(), values(ranking).mean(0).tolist(), strict=True))


@torch.no_grad()
def embed(encoder: Encoder, count: int, inputs_of) -> torch.Tensor:
    """Vectors (count, D) float32 on the CPU of numbered contents; the ranks share the work and all get the result."""
    training = encoder.training
    encoder.eval()
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    mine = np.array_split(np.arange(count), world)[rank]
    parts = [torch.empty(0, encoder.dim)]
    for at in range(0, len(mine), ROWS):
        inputs: Inputs = inputs_of(mine[at : at + ROWS])
        parts.append(encoder(inputs.to(encoder.device)).float().cpu())
    encoder.train(training)
    vectors = torch.cat(parts)
    if world == 1:
        return vectors
    everybody: list[torch.Tensor | None] = [None] * world
    dist.all_gather_object(everybody, vectors)
    return torch.cat([part for part in everybody if part is not None])
