"""CUBE's query side: against plain float64 loops, and through batches, training, export and requests."""

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from data.dataset import Dataset
from data.errors import InputError
from data.live import LiveDataset
from data.queries import query_ids
from features.batch import SequenceBatch
from features.encoder import FeatureEncoder
from features.loader import Loader
from features.ranks import process_group
from features.samples import SampleEncoder
from features.store import Store
from features.store_append import append
from features.store_writer import StoreWriter
from features.vector_source import open_sources
from ranker.config import Recipe
from ranker.content_config import Cube
from ranker.cube import CubeExtractor
from ranker.item_vectors import Content
from ranker.run_folder import RunFolder
from ranker.target_attention import Behaviours
from tests.conftest import write_store
from tests.data.test_pairs import prepared, write_shop
from tests.ranker.evidence import D, E, M, assert_same, leaves, make_evidence
from tests.ranker.test_cube import weights_of

Q, F = 9, 5
PAST = [2, 0, 4, 1, 3, 0, 2]
NO_VECTOR = [0, 5]


def made(weights):
    """Evidence with a query side: samples 1 and 5 ask what has no vector, sample 3's target has none."""
    e, g = make_evidence(), torch.Generator().manual_seed(8)
    n = torch.tensor(PAST)
    row = torch.repeat_interleave(torch.arange(7), n)
    past = torch.randint(Q, (len(row),), generator=g)
    past[:2] = torch.tensor(NO_VECTOR)
    target = torch.tensor([1, 0, 3, 4, 8, 5, 3])
    present = torch.ones(Q, dtype=torch.bool)
    present[NO_VECTOR] = False
    vectors = (torch.randn(Q, M, generator=g, dtype=torch.float64) * present.unsqueeze(1)).requires_grad_()
    ids = torch.randn(Q, F, generator=g, dtype=torch.float64).requires_grad_()
    e.content["asked"] = Content(vectors, present, vectors[target], present[target])
    e.behaviours["searches"] = Behaviours(SequenceBatch(n, row, past), ids, (), ids[target])
    config = Cube(kind="cube", vectors="image", sequences=("seq",), weights=weights, top=2, queries="asked")  # pyright: ignore
    torch.manual_seed(6)
    module = CubeExtractor(config, {"seq": D + E, "searches": F}, M).double()
    with torch.no_grad():
        for part in module.parts.values():
            part.simtier.weight.normal_()
    return e, module, [vectors, ids]


def cos(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


class Against:
    """Cosines of behaviours with one vector, as test_cube's reference of W reads them."""

    def __init__(self, r_b, there, r, present):
        self.comparable = there & present
        self.cos = r_b.new_full((len(r_b),), torch.nan)
        for i in self.comparable.nonzero().flatten().tolist():
            self.cos[i] = cos(r_b[i], r)


def over_sequence(part, r_b, e_b, there, r, present):
    h = Against(r_b, there, r, present)
    w = weights_of(part, h, h.comparable).unsqueeze(1)
    tiers = [0] * 22
    for value, comparable in zip(h.cos.tolist(), h.comparable.tolist(), strict=True):
        tiers[21 if not comparable else next(k for k in range(20, -1, -1) if value + 1e-7 >= k / 10 - 1)] += 1
    best = h.cos[h.comparable].sort(descending=True).values[:2]
    histogram = torch.log1p(torch.tensor(tiers, dtype=torch.float64)) * part.simtier.weight
    best = torch.cat([best, best.new_full((2 - len(best),), -1.0)])
    return torch.cat([(w * e_b).sum(0), (w * r_b).sum(0), histogram, best])


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_equals_the_reference_forward_and_backward(weights):
    e, module, more = made(weights)
    items, asked, b, searches = e.content["image"], e.content["asked"], e.behaviours["seq"], e.behaviours["searches"]
    rows = []
    for i in range(7):
        t, q = e.batch.target[i], torch.tensor([1, 0, 3, 4, 8, 5, 3])[i]
        target, query = (items.items_UM[t], items.present_U[t]), (asked.items_UM[q], asked.present_U[q])
        mine, past = b.sequence.row == i, searches.sequence.row == i
        at, before = b.sequence.item[mine], searches.sequence.item[past]
        e_b = torch.cat([b.items_UD[at], b.sides[0].rows_SE[b.sides[0].index[mine]]], 1)
        item = (items.items_UM[at], e_b, items.present_U[at])
        search = (asked.items_UM[before], searches.items_UD[before], asked.present_U[before])
        both = target[1] & query[1]
        likeness = cos(target[0], query[0]) if both else target[0].new_zeros(())
        scalars = torch.stack([likeness, both.double(), query[1].double()])
        out = [target[0], target[1].double().reshape(1), over_sequence(module.parts["seq"], *item, *target)]
        out += [query[0], scalars, over_sequence(module.parts["seq_query"], *item, *query)]
        out += [over_sequence(module.parts["searches"], *search, *target)]
        out += [over_sequence(module.parts["searches_query"], *search, *query)]
        rows.append(torch.cat(out))
    found = module(e)
    assert found.shape == (7, module.width)
    assert_same(found, torch.stack(rows), [*module.parameters(), *leaves(e).values(), *more])


RECIPE = {
    "name": "asked",
    "features": {
        "default_table": {"dim": 4},
        "tables": {"query": {"dim": 4, "oov_rate": 0.1}},
        "features": [
            {"kind": "id", "name": "user", "column": "user"},
            {"kind": "id", "name": "item", "column": "item"},
            {"kind": "id", "name": "query", "column": "query"},
        ],
        "sequences": [{"name": "done", "length": 8, "fields": ["item"]}],
        "searches": {"length": 3, "table": "query"},
        "vectors": [{"name": "image"}, {"name": "asked", "of": "queries"}],
    },
    "model": {
        "sequences": {"searches": {"kind": "mha", "heads": 2, "head_dim": 4}},
        "content": [
            {"kind": "cube", "vectors": "image", "sequences": ["done"], "queries": "asked", "top": 2},
            {"kind": "simtier", "vectors": "asked", "sequence": "searches"},
            {"kind": "concat", "vectors": "asked"},
        ],
        "tower": [8],
    },
    "train": {"batch_size": 64, "threads": 1},
}


@dataclasses.dataclass(frozen=True)
class Shop:
    dataset: Dataset
    stores: dict
    known: np.ndarray


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A log of text and picture searches; every fourth query has no vector, nor has every fifth item."""
    root = tmp_path_factory.mktemp("shop")
    write_shop(root / "raw", {"rule": "temporal", "train": 0.6, "valid": 0.2})
    dataset, _ = prepared(root / "raw", root / "data")
    ids = query_ids(dataset)
    known = np.flatnonzero(np.arange(len(ids)) % 4 != 1)
    vectors = np.random.default_rng(1).normal(size=(len(known), 8))
    with StoreWriter(root / "asked", len(known), 8, encoder="random", item_ids=ids.gather(known)) as writer:
        writer.put(np.arange(len(known)), vectors)
        writer.publish()
    return Shop(dataset, {"image": write_store(root / "image", dataset.root), "asked": root / "asked"}, known)


def opened(shop):
    recipe = Recipe.model_validate(RECIPE)
    sources = open_sources(recipe.features, shop.dataset, shop.stores)
    encoder = FeatureEncoder.fit(recipe.features, shop.dataset, sources)
    return SampleEncoder(encoder, shop.dataset, sources)


def test_a_batch_holds_each_query_once_and_the_searches_strictly_before(shop):
    samples = opened(shop)
    frame, ids = shop.dataset.samples("valid").collect(), query_ids(shop.dataset).to_list()
    batch = next(Loader(samples, "valid", 50).epoch())
    log = pl.concat([shop.dataset.samples(s).select("user", "ts", "query", "query_image").collect() for s in
                     ("train", "valid", "test")]).unique().to_dicts()  # fmt: skip
    keyed = batch.ids[4]
    codes = dict(zip(keyed.keys(), keyed.values().split(keyed.lengths().tolist()), strict=True))
    vocabulary = samples.encoder.vocabularies["query"]
    rows = batch.vectors["asked"].tolist()
    assert len(rows) == len(codes["searches_query"]) == len(set(batch.queries.sequence.item.tolist()
                                                               + batch.queries.target.tolist()))  # fmt: skip
    place = {i: n + 1 for n, i in enumerate(shop.known.tolist())}
    past = batch.queries.sequence.item.split(batch.queries.sequence.lengths.tolist())
    for row in range(50):
        me = frame.row(row, named=True)
        before = [
            (e["ts"], e["query_image"] or e["query"]) for e in log if e["user"] == me["user"] and e["ts"] < me["ts"]
        ]
        expected = [i for _, i in sorted(before)][-3:]
        shown = [*expected, me["query_image"] or me["query"]]
        found = [*past[row].tolist(), int(batch.queries.target[row])]
        assert [rows[q] for q in found] == [place.get(ids.index(i), 0) for i in shown]
        assert [int(codes["searches_query"][q]) for q in found] == vocabulary.encode(np.array(shown)).tolist()
    assert {0} < set(rows) and 0 in codes["searches_query"] and (codes["searches_query"] > 0).any()


def test_it_trains_and_its_package_gives_the_same_scores_for_rows_and_requests(shop, tmp_path):
    """The export's own gate holds scores of batches and of requests (raw ids, lists of searches) against the model."""
    from ranker.exporting.export import Choice, export
    from ranker.train import train

    with process_group() as ranks:
        train(Recipe.model_validate(RECIPE), shop.dataset, tmp_path / "run", ranks, stores=shop.stores)
        run = RunFolder(tmp_path / "run")
        card, folder = export(run, shop.dataset, tmp_path / "package", ranks, Choice(programs=("program",)))
    assert card["parity"][0]["largest"] < 1e-6 and card["served_as_requests"]["largest_difference"] < 1e-6
    requests = pl.read_parquet(folder / "examples" / "requests.parquet")
    assert {"query", "query_image", "searches"} <= set(requests.columns) and requests["searches"].list.len().max() > 3


def test_a_live_ranker_knows_the_searches_of_the_disk_and_those_added_since(shop, tmp_path):
    """The test split scored through memory; then one user searches again, which changes that user's scores alone; then
    all search with a photo that the log does not have, but the store does."""
    from ranker.live import LiveRanker
    from ranker.train import train

    store = tmp_path / "asked"
    shutil.copytree(shop.stores["asked"], store)
    append(store, Store(store).current, pl.Series(["later.jpg"]), np.ones((1, 8)))
    with process_group() as ranks:
        train(
            Recipe.model_validate(RECIPE), shop.dataset, tmp_path / "run", ranks, stores=shop.stores | {"asked": store}
        )
        run, rows = RunFolder(tmp_path / "run"), shop.dataset.samples("test").collect().with_row_index("context")
        dataset = LiveDataset(shop.dataset.root, int(rows["ts"].min()))  # pyright: ignore[reportArgumentType]
        ranker = LiveRanker(run, dataset, ranks)
        scores = ranker.score(rows)
        assert scores == pytest.approx(run.read_predictions("test")["score"].to_numpy(), rel=1e-5)
        user, last = rows["user"].to_numpy()[-1], rows["ts"].to_numpy()[-1]
        asked = query_ids(shop.dataset).gather(shop.known[:2])
        dataset.searches.add(np.array([user, user]), np.array([last - 1, last]), asked)
        moved = np.abs(ranker.score(rows) - scores) > 1e-9
        later, never = (
            ranker.score(rows.with_columns(query_image=pl.lit(name))) for name in ("later.jpg", "never.jpg")
        )
    assert (np.abs(later - never) > 1e-6).all()
    mine = (rows["user"].to_numpy() == user) & (rows["ts"].to_numpy() >= last)
    assert moved.any() and (moved <= mine).all()


def test_mistakes_are_one_line(shop, tmp_path):
    def fails(changes, kind=ValueError):
        content = [RECIPE["model"]["content"][0] | changes, *RECIPE["model"]["content"][1:]]
        with pytest.raises(kind) as found:
            recipe = Recipe.model_validate(RECIPE | {"model": RECIPE["model"] | {"content": content}})
            sources = open_sources(recipe.features, shop.dataset, shop.stores | {"asked": tmp_path / "other"})
            from ranker.model import Ranker

            encoder = FeatureEncoder.fit(recipe.features, shop.dataset, sources)
            Ranker(recipe, encoder, sources, torch.device("cpu"))
        return str(found.value)

    assert "'image' are vectors of items, 'searches' is a sequence of queries" in fails({"queries": "image"})
    assert "cube reads vectors and sequences of items, not of queries" in fails({"vectors": "asked"})
    with StoreWriter(tmp_path / "other", 1, 8, encoder="another", item_ids=query_ids(shop.dataset)[:1]) as writer:
        writer.put(np.array([0]), np.ones((1, 8)))
        writer.publish()
    assert "'asked' have encoder another, 'image' random; their cosine means nothing" in fails({}, InputError)
