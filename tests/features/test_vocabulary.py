"""Vocabularies: counts decide who has a row, everything else is row 0; hashes are the same everywhere."""

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from features.vocabulary import OOV, Vocabulary, raw_values


def test_values_counted_often_enough_have_a_row_in_sorted_order():
    vocabulary = Vocabulary.fit(np.array([30, 10, 20, 40]), np.array([5, 2, 1, 2]), 2)
    assert vocabulary.values.tolist() == [10, 30, 40] and vocabulary.rows == 4
    assert vocabulary.encode(np.array([10, 20, 30, 40, 50, -1])).tolist() == [1, OOV, 2, 3, OOV, OOV]
    assert vocabulary.encode(np.array([30])).dtype == np.int32


def test_text_and_nulls():
    vocabulary = Vocabulary.fit(np.array(["b", "a", "ü"]), np.array([1, 1, 1]), 1)
    series = pl.Series(["a", None, "ü", "zz", "", "b", "a"])
    assert vocabulary.encode_series(series).tolist() == [1, OOV, 3, OOV, OOV, 2, 1]


def test_an_empty_vocabulary_knows_nothing():
    vocabulary = Vocabulary.fit(np.array([1, 2]), np.array([1, 1]), 5)
    assert vocabulary.rows == 1 and vocabulary.encode(np.array([1, 2])).tolist() == [OOV, OOV]
    assert Vocabulary.fit(np.array([1]), np.array([1]), 1).encode(np.empty(0, np.int64)).tolist() == []


def splitmix64(value: int) -> int:
    """The published mixer, on Python integers."""
    mask = (1 << 64) - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_hashing_is_splitmix64_and_never_row_0():
    vocabulary, values = Vocabulary.hashing(11), np.array([0, 1, -1, 2**62, 12345])
    rows = vocabulary.encode(values)
    assert rows.tolist() == [1 + splitmix64(int(v) % 2**64) % 10 for v in values]
    spread = np.bincount(vocabulary.encode(np.arange(10_000)), minlength=11)
    assert spread[0] == 0 and spread[1:].min() > 850 and spread.max() < 1150


def test_hashing_text_depends_on_the_text_alone():
    vocabulary = Vocabulary.hashing(1 << 20)
    together = vocabulary.encode_series(pl.Series(["red shoe", "hat", None, "a much longer text"]))
    alone = [
        vocabulary.encode_series(pl.Series([t], dtype=pl.String))[0]
        for t in ("red shoe", "hat", None, "a much longer text")
    ]
    assert together.tolist() == alone and alone[2] == OOV and len(set(alone)) == 4
    # FNV-1a of "hat" is a published constant of the algorithm: 64-bit offset basis and prime
    state = 0xCBF29CE484222325
    for byte in b"hat":
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    assert alone[1] == 1 + splitmix64(state) % ((1 << 20) - 1)


def test_columns_that_are_no_ids():
    with pytest.raises(
        InputError, match=r"^column 'price' is Float32: an id needs whole numbers or text \(for numbers"
    ):
        raw_values(pl.Series("price", [1.5], dtype=pl.Float32))
    assert raw_values(pl.Series([True, False])).tolist() == [1, 0]
    assert raw_values(pl.Series(["a"], dtype=pl.Categorical)).tolist() == ["a"]
