"""Stores opened for a dataset: rows and masks, the shuffled twin, and every way in which a store does not fit."""

import shutil

import numpy as np
import pytest

from data.errors import InputError
from features.spec import FeatureSpec
from features.store_writer import StoreWriter
from features.vector_source import VectorSource, named_folders, open_sources
from tests.conftest import write_store


def spec(**vectors) -> FeatureSpec:
    return FeatureSpec.model_validate({"features": [], "vectors": [{"name": "image", **vectors}]})


def source(root, dataset, **vectors) -> VectorSource:
    return open_sources(spec(**vectors), dataset, {"image": root})["image"]


@pytest.fixture
def store(toy, tmp_path):
    return write_store(tmp_path / "store", toy, dim=8, missing=4)


def test_rows_are_items_shifted_by_one_and_missing_is_row_zero(store, dataset):
    found = source(store, dataset)
    items = np.array([0, 1, 5, 4, 1])
    assert found.rows(items).tolist() == [0, 2, 6, 0, 2]
    table = found.block(0, found.table_rows)
    expected, mask = found.version.vectors(np.arange(found.table_rows - 1), 8)
    np.testing.assert_array_equal(table[1:], expected)
    assert not table[0].any() and not table[1:][~mask].any()
    np.testing.assert_allclose(np.linalg.norm(table[1:][mask], axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(found.block(3, 6), table[3:6])
    assert source(store, dataset, dim=4).block(2, 3).shape == (1, 4)


def test_items_that_wait_for_their_vectors_have_none_until_they_do_not(store, dataset):
    found = source(store, dataset)
    items = np.array([0, 1, 5, 4])
    found.wait(np.arange(found.table_rows - 1) == 5)
    assert found.rows(items).tolist() == [0, 2, 0, 0]
    found.wait(np.zeros(found.table_rows - 1, bool))
    assert found.rows(items).tolist() == [0, 2, 6, 0]


def test_the_shuffled_twin_has_the_same_items_and_other_vectors(store, dataset):
    plain, twin, again = source(store, dataset), source(store, dataset, shuffle=3), source(store, dataset, shuffle=3)
    items = np.arange(plain.table_rows - 1)
    real, shuffled = plain.rows(items), twin.rows(items)
    assert np.array_equal(shuffled, again.rows(items))
    assert np.array_equal(real == 0, shuffled == 0) and sorted(real) == sorted(shuffled)
    assert (real != shuffled).any() and not np.array_equal(shuffled, source(store, dataset, shuffle=4).rows(items))


def test_a_store_that_does_not_fit_is_named(store, dataset, tmp_path):
    with pytest.raises(InputError, match=r"asks for 5 dimensions; the store has prefixes of 4, 8"):
        source(store, dataset, dim=5)
    items = dataset.meta["counts"]["items"]
    with StoreWriter(tmp_path / "small", items - 1, 8, encoder="e") as writer:
        writer.publish()
    with pytest.raises(InputError, match=rf"the store has {items - 1} rows, .* has {items} items; embed the items"):
        source(tmp_path / "small", dataset)
    with StoreWriter(tmp_path / "other", items, 8, encoder="e", dataset_fingerprint="f" * 64) as writer:
        writer.publish()
    with pytest.raises(InputError, match="made for dataset ffffffffffff"):
        source(tmp_path / "other", dataset)
    with pytest.raises(InputError, match="no representation store"):
        source(tmp_path, dataset)


def test_items_of_another_dataset_are_found_by_id(dataset, tmp_path):
    ids = dataset.items().collect()["item_id"]
    own = ids.reverse()[1:]
    vectors = np.random.default_rng(0).normal(size=(len(own), 4))
    with StoreWriter(tmp_path / "ids", len(own), 4, encoder="e", dataset_fingerprint="f" * 64, item_ids=own) as writer:
        writer.put(np.arange(1, len(own)), vectors[1:])
        writer.publish()
    found = source(tmp_path / "ids", dataset)
    expected = [0 if i >= len(own) - 1 else len(own) - i for i in range(len(ids))]
    assert found.rows(np.arange(len(ids))).tolist() == expected
    with StoreWriter(tmp_path / "none", 2, 4, encoder="e", item_ids=ids[:2].cast(str) + "x") as writer:
        writer.publish()
    with pytest.raises(InputError, match="item ids are"):
        source(tmp_path / "none", dataset)
    strange = ids[:2] + 10**6
    with StoreWriter(tmp_path / "strange", 2, 4, encoder="e", item_ids=strange) as writer:
        writer.publish()
    with pytest.raises(InputError, match=r"the store knows none of the \d+ items"):
        source(tmp_path / "strange", dataset)


def test_a_pinned_version_stays_until_it_is_gone(store, toy, dataset):
    write_store(store, toy, seed=1)
    assert VectorSource(spec().vectors[0], store, dataset).version.number == 2
    assert VectorSource(spec().vectors[0], store, dataset, 1).version.number == 1
    shutil.rmtree(store / "v00000001")
    with pytest.raises(InputError, match="version 1 of the store is gone; versions there: 2"):
        VectorSource(spec().vectors[0], store, dataset, 1)


def test_store_words(store, dataset):
    one = spec()
    two = FeatureSpec.model_validate({"features": [], "vectors": [{"name": "image"}, {"name": "text"}]})
    assert (
        named_folders("--store", [v.name for v in one.vectors], [str(store)])
        == named_folders("--store", [v.name for v in one.vectors], [f"image={store}"])
        == {"image": store}
    )
    assert set(named_folders("--store", [v.name for v in two.vectors], ["image=a", "text=b"])) == {"image", "text"}
    with pytest.raises(InputError, match=r"asks for 2 \(image, text\); give NAME=DIR"):
        named_folders("--store", [v.name for v in two.vectors], [str(store)])
    with pytest.raises(InputError, match="the recipe asks for none"):
        named_folders("--store", [v.name for v in FeatureSpec(features=()).vectors], [str(store)])  # pyright: ignore
    with pytest.raises(InputError, match="'image' is given twice"):
        named_folders("--store", [v.name for v in one.vectors], ["image=a", "image=b"])
    with pytest.raises(InputError, match=r"'text' needs a representation store; give --store text=DIR"):
        open_sources(two, dataset, {"image": store})
    with pytest.raises(
        InputError, match=r"--store text=.*: the recipe asks for no such vectors; its vectors are: image"
    ):
        open_sources(one, dataset, {"image": store, "text": store})
