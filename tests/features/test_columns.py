"""Buckets, normalisers and codes against plain arithmetic."""

import math

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from features import columns
from features.columns import Buckets, Codes
from features.spec import BucketFeature, DenseFeature, IdFeature
from features.vocabulary import Vocabulary


def bucket(**rule: object) -> BucketFeature:
    return BucketFeature.model_validate({"kind": "bucket", "name": "b", "column": "c", **rule})


def dense(**rule: object) -> DenseFeature:
    return DenseFeature.model_validate({"kind": "dense", "name": "d", "column": "c", **rule})


def test_buckets_are_closed_on_the_left_and_nan_is_row_0():
    cuts = columns.cut_points(bucket(boundaries=(1, 2.5)), np.empty(0))
    values = np.array([-np.inf, 0.9, 1, 2.4, 2.5, np.inf, np.nan])
    assert cuts.encode(values).tolist() == [1, 1, 2, 2, 3, 3, 0] and cuts.rows == 4


def test_quantiles_cut_into_equal_parts_and_ignore_what_is_not_finite():
    values = np.concatenate((np.arange(1000.0), [np.nan, np.inf, -np.inf]))
    cuts = columns.cut_points(bucket(quantiles=4), values)
    assert np.bincount(cuts.encode(np.arange(1000.0))).tolist() == [0, 250, 250, 250, 250]
    many_equal = columns.cut_points(bucket(quantiles=10), np.array([0.0] * 99 + [1.0]))
    assert many_equal.cuts.tolist() == [0.0] and many_equal.rows == 3
    with pytest.raises(InputError, match="feature 'b': column 'c' has no finite value to take quantiles of"):
        columns.cut_points(bucket(quantiles=2), np.array([np.nan]))


def test_transforms():
    values = np.array([0.0, 3.0, -1.0])
    assert columns.transformed(dense(transform="log1p"), values, None, 0.0).tolist() == [0.0, math.log(4), 0.0]
    rate = dense(transform="logit", per="n", strength=10.0)
    found = columns.transformed(rate, np.array([0.0, 5.0]), np.array([0.0, 20.0]), 0.2)
    assert found.tolist() == pytest.approx([math.log(0.2 / 0.8), math.log((7 / 30) / (23 / 30))])
    assert np.isfinite(columns.transformed(dense(transform="logit"), np.array([0.0, 1.0]), None, 0)).all()


def test_mean_and_deviation_are_weighted_and_of_finite_values():
    values, weights = np.array([1.0, 3.0, np.nan, 5.0]), np.array([1, 2, 100, 0])
    mean, scale = columns.dense_mean_scale(values, weights)
    assert mean == pytest.approx(7 / 3) and scale == pytest.approx(math.sqrt((16 / 9 + 2 * 4 / 9) / 3))
    assert columns.dense_mean_scale(np.array([2.0, 2.0]), None) == (2.0, 1.0)
    assert columns.dense_mean_scale(np.array([np.nan]), None) == (0.0, 1.0)
    assert columns.dense_mean_scale(np.array([1.0, 3.0]), np.array([0, 0])) == (2.0, 1.0)


def test_codes_are_taken_and_joined():
    ragged = Codes(np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 2, 2, 5, 6]))
    taken = ragged.take(np.array([2, 1, 0, 2]))
    assert taken.values.tolist() == [3, 4, 5, 1, 2, 3, 4, 5]
    assert taken.offsets is not None and taken.offsets.tolist() == [0, 3, 3, 5, 8]
    joined = Codes.joined([taken, ragged.take(np.array([3]))])
    assert joined.values.tolist() == [3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert joined.offsets is not None and joined.offsets.tolist() == [0, 3, 3, 5, 8, 9]
    flat = Codes.joined([Codes(np.array([1, 2])), Codes(np.array([3]))])
    assert flat.values.tolist() == [1, 2, 3] and flat.offsets is None
    assert ragged.take(np.empty(0, np.int64)).values.tolist() == []


def test_lists_with_nulls_inside_and_out():
    vocabulary = Vocabulary.fit(np.array(["a", "b"]), np.array([1, 1]), 1)
    codes = columns.encode_ids(pl.Series([["a", "zz"], None, [], [None, "b"]], dtype=pl.List(pl.String)), vocabulary)
    assert codes.values.tolist() == [1, 0, 0, 2]
    assert codes.offsets is not None and codes.offsets.tolist() == [0, 2, 2, 2, 4]


def test_list_values_are_counted_with_the_weight_of_their_row():
    values, counts = columns.count_values(pl.Series([["a", "b"], ["b"], None, ["c"]]), np.array([2, 5, 9, 0]))
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {"a": 2, "b": 7, "c": 0}


def test_one_table_for_two_features_is_their_union():
    feature = IdFeature(kind="id", name="x", column="x", table="t")
    one, two = (feature, np.array([1, 2]), np.array([1, 1])), (feature, np.array([2, 3]), np.array([1, 1]))
    assert columns.fit_vocabulary([one, two], 1, None).values.tolist() == [1, 2, 3]
    assert columns.fit_vocabulary([one, two], 2, None).values.tolist() == [2]
    text = (feature, np.array(["a"]), np.array([1]))
    with pytest.raises(InputError, match="features x, x share a table, but some hold text and some numbers"):
        columns.fit_vocabulary([one, text], 1, None)


def test_columns_are_picked_by_name_or_the_nearest_is_told():
    table = pl.DataFrame({"item_id": [1], "price": [2.0]})
    assert columns.entity_column(table, "item").to_list() == [1]
    with pytest.raises(InputError, match=r"^items\.parquet: no column 'prize'; did you mean 'price'\?$"):
        columns.entity_column(table, "item.prize")
    with pytest.raises(InputError, match=r"column 'title' is String; a dense or bucket feature needs numbers"):
        columns.floats(pl.Series("title", ["a"]))
    assert np.isnan(columns.floats(pl.Series([None, 1], dtype=pl.Int32))[0])


def test_bucket_rows_equal_a_loop():
    rng = np.random.default_rng(0)
    cuts, values = np.sort(rng.normal(size=9)), rng.normal(size=500)
    assert Buckets(cuts).encode(values).tolist() == [1 + sum(v >= c for c in cuts) for v in values]
