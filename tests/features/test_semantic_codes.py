"""Semantic ids: residual k-means by its definition, what it is fitted on, missing vectors, items that come later."""

import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import InputError
from features.codebooks import Codebooks, ItemCodes
from features.encoder import FeatureEncoder
from features.samples import SampleEncoder
from features.semantic_codes import known_in_training
from features.spec import FeatureSpec
from features.vector_source import MISSING, open_sources
from tests.conftest import write_store

BOOKS = Codebooks(np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32))


def spec(**vectors):
    features = [{"kind": "id", "name": "item", "column": "item"}]
    codes = {"levels": 2, "size": 6}
    return FeatureSpec.model_validate({"features": features, "vectors": [{"name": "image", "codes": codes, **vectors}]})


def sources(small, store, **vectors):
    return open_sources(spec(**vectors), Dataset(small), {"image": store})


@pytest.fixture(scope="module")
def store(small, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "image", small)


def test_codes_are_the_nearest_centroids_of_what_is_left_over():
    vectors = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    found = BOOKS.encode(vectors)
    for vector, codes in zip(vectors.astype(np.float64), found, strict=True):
        rest = vector.copy()
        for centroids, code in zip(BOOKS.centroids_LKM.astype(np.float64), codes, strict=True):
            assert code - 1 == ((centroids - rest) ** 2).sum(1).argmin()
            rest -= centroids[code - 1]
        assert np.allclose(vector - rest, BOOKS.decode(codes[None])[0], atol=1e-6)
    assert found.min() == 1 and found.max() == 5 and BOOKS.rows == 6
    assert all(np.array_equal(BOOKS.encode(v[None])[0], c) for v, c in zip(vectors, found, strict=True))


def test_a_row_is_computed_once_and_a_missing_vector_has_code_0():
    table = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    asked: list[int] = []

    def vectors(rows):
        asked.extend(rows.tolist())
        return table[rows]

    codes = ItemCodes(BOOKS, vectors, 7)
    found = codes.of(np.array([3, 0, 5, 3]))
    assert not found[1].any() and (found[[0, 2, 3]] > 0).all() and np.array_equal(found[0], found[3])
    codes.of(np.array([5, 6, 0]))
    grown = codes.grown(vectors, 9)
    assert np.array_equal(grown.of(np.array([3, 8])), BOOKS.encode(table[[3, 8]]))
    assert sorted(set(asked)) == [3, 5, 6, 8] and asked.count(3) <= 2 and asked.count(5) == 1


def test_codebooks_see_items_known_in_training_alone(small, store):
    """What other items' vectors are changes nothing; what theirs are, everything. Fitting again gives the same bits."""
    known = known_in_training(Dataset(small))
    assert 0 < len(known) < Dataset(small).meta["counts"]["items"]
    trained = FeatureEncoder.fit(spec(), Dataset(small), sources(small, store))
    source = sources(small, store)["image"]
    rows, honest = source.rows(known), source.stored
    for changes, same in ((False, True), (True, False)):
        source.stored = lambda at, c=changes: honest(at) * np.where(np.isin(at, rows) == c, -0.5, 1)[:, None]
        other = FeatureEncoder.fit(spec(), Dataset(small), {"image": source})
        assert (other.fingerprint == trained.fingerprint) == same
        equal = np.array_equal(other.codebooks["image"].centroids_LKM, trained.codebooks["image"].centroids_LKM)
        assert equal == same


def test_levels_explain_more_and_more_and_the_encoder_keeps_them(small, store, tmp_path):
    encoder = FeatureEncoder.fit(spec(), Dataset(small), sources(small, store))
    source = sources(small, store)["image"]
    rows = np.unique(source.rows(known_in_training(Dataset(small))))[1:]
    vectors, books = source.stored(rows), encoder.codebooks["image"]
    codes = books.encode(vectors)
    left = [((vectors - books.decode(codes[:, :n])) ** 2).sum() for n in (1, 2)]
    assert left[1] < 0.8 * left[0] < 0.8 * ((vectors - vectors.mean(0)) ** 2).sum()
    encoder.save(tmp_path / "encoder")
    again = FeatureEncoder.load(tmp_path / "encoder")
    assert again.fingerprint == encoder.fingerprint and np.array_equal(again.codebooks["image"].encode(vectors), codes)
    assert encoder.rows("image_code1") == encoder.rows("image_code2") == 7


def test_shuffled_vectors_give_every_item_the_codes_of_anothers_vector(small, store):
    plain, shuffled = sources(small, store)["image"], sources(small, store, shuffle=3)["image"]
    codes = plain.codes(BOOKS_8)
    items = np.arange(Dataset(small).meta["counts"]["items"])
    ours, theirs = plain.rows(items), shuffled.rows(items)
    assert (ours == MISSING).tolist() == (theirs == MISSING).tolist() and (ours != theirs).any()
    assert np.array_equal(codes.of(theirs), shuffled.codes(BOOKS_8).of(theirs))
    assert plain.codes(BOOKS_8) is codes


BOOKS_8 = Codebooks(np.random.default_rng(5).normal(size=(2, 6, 8)).astype(np.float32))


def test_a_batch_has_the_codes_of_its_items(small, store):
    from features.loader import Loader

    found = sources(small, store)
    encoder = FeatureEncoder.fit(spec(), Dataset(small), found)
    batch = next(Loader(SampleEncoder(encoder, Dataset(small), found), "train", 64).epoch())
    (keyed,) = batch.ids.values()
    assert keyed.keys() == ["item", "image_code1", "image_code2"]
    _, first, second = keyed.values().split(keyed.lengths().tolist())
    rows = batch.vectors["image"].numpy()
    expected = found["image"].codes(encoder.codebooks["image"]).of(rows)
    assert np.array_equal(np.stack([first, second], 1), expected) and ((expected == 0) == (rows == 0)[:, None]).all()


def test_too_few_vectors_are_one_line(small, store):
    wrong = spec(codes={"levels": 1, "size": 5000})
    with pytest.raises(
        InputError, match=r"codes of 5000 centroids need as many vectors; .* of items known in training"
    ):
        FeatureEncoder.fit(wrong, Dataset(small), sources(small, store))
