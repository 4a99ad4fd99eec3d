"""Each cleaning step against the words that describe it, with its counts."""

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from moon_encoder.cleaning import enough_entities, least_similar_query, match_exposure, merge_products
from moon_encoder.entities import LexiconTagger, TaggerConfig, load_tagger
from moon_encoder.hard_negatives import SameCategory
from moon_encoder.pairs import Pairs


def pairs_of(item, query=None, user=None) -> Pairs:
    item = np.asarray(item, dtype=np.int64)
    query = np.array([f"q{i}" for i in range(len(item))] if query is None else query, dtype=object)
    user = np.full(len(item), -1) if user is None else np.asarray(user)
    blank = np.full(len(item), "order", dtype=object)
    return Pairs("search_text", "text", query, np.full(len(item), -1), item, user, np.arange(len(item)), blank)


def test_of_an_items_queries_the_least_similar_stays():
    pairs = pairs_of([5, 7, 5, 5, 7, 9])
    kept, counts = least_similar_query(pairs, np.array([0.9, 0.3, 0.2, 0.2, 0.8, 0.7]))
    assert kept.query.tolist() == ["q1", "q2", "q5"] and kept.item.tolist() == [7, 5, 9]
    assert (counts.before, counts.after, counts.more["items"]) == (6, 3, 3)
    assert counts.line() == (
        "search_text: least similar query: 6 -> 3 pairs (50.0%); items 3, cosine before 0.5167, cosine after 0.4"
    )


def test_skus_of_a_product_count_as_one_for_a_query():
    product = np.array([0, 0, 1, -1, -1])
    pairs = pairs_of([0, 1, 2, 3, 4, 1, 0], query=["a", "a", "a", "a", "a", "b", "a"], user=[1, 1, 1, 1, 1, 1, 2])
    kept, counts = merge_products(pairs, product)
    assert list(zip(kept.query, kept.item.tolist(), kept.user.tolist(), strict=True)) == [
        ("a", 0, 1), ("a", 2, 1), ("a", 3, 1), ("a", 4, 1), ("b", 1, 1), ("a", 0, 2),
    ]  # fmt: skip
    assert (counts.before, counts.after, counts.more) == (7, 6, {"SKUs": 5, "SPUs": 4})


def test_categories_match_the_exposure_mix():
    category = np.array([0, 1, 2, -1])
    pairs = pairs_of(np.repeat([0, 1, 2, 3], [600, 100, 5, 50]))
    exposure = np.array([100.0, 100.0, 50.0, 0.0])
    kept, counts = match_exposure(pairs, category, exposure, np.random.default_rng(0))
    assert np.bincount(kept.item, minlength=4).tolist() == [100, 100, 5, 0]  # few stay as they are, unexposed go
    assert counts.more["distance after"] < 0.2 < counts.more["distance before"]
    again, _ = match_exposure(pairs, category, exposure, np.random.default_rng(0))
    other, _ = match_exposure(pairs, category, exposure, np.random.default_rng(1))
    assert np.array_equal(kept.ts, again.ts) and not np.array_equal(kept.ts, other.ts)
    assert (np.diff(kept.ts) > 0).all()


def test_a_mix_that_matches_already_stays_whole():
    pairs = pairs_of(np.repeat([0, 1], [300, 100]))
    kept, counts = match_exposure(pairs, np.array([0, 1]), np.array([30.0, 10.0, 0.0]), np.random.default_rng(0))
    assert len(kept) == 400 and counts.more == {"distance before": 0, "distance after": 0}


ITEMS = pl.DataFrame(
    {
        "title": [*["Blue running shoe 7"] * 2, *[f"Blue thing number {i}" for i in range(5)]],
        "category": [*["Running shoes"] * 2, *["Watches"] * 5],
        "colours": [["Navy Blue"], ["Blue"], *[["red"]] * 5],
    }
)


def test_the_lexicon_takes_the_longest_match_and_every_word_once():
    tagger = LexiconTagger.of_catalogue(ITEMS, "title", TaggerConfig(columns=("category", "colours"), title_words=5))
    assert tagger(["navy BLUE running-shoes", "a watch", "red red", "the 7", ""]) == [
        [("navy blue", "colours"), ("running shoes", "category")],
        [("watch", "category")],
        [("red", "colours"), ("red", "colours")],
        [],
        [],
    ]
    assert tagger(["thing number 3"]) == [[("thing", "title"), ("number", "title")]]
    with pytest.raises(InputError, match=r"tagger.columns: the catalogue has no column 'brand'"):
        LexiconTagger.of_catalogue(ITEMS, "title", TaggerConfig(columns=("brand",)))


def words_tagger(texts):
    return [[(word, "word") for word in text.split()] for text in texts]


def test_texts_with_fewer_entities_go_and_the_tagger_can_be_exchanged():
    pairs = pairs_of([1, 2, 3])
    tagger = load_tagger(TaggerConfig(python=f"{__name__}:words_tagger"), ITEMS, "title")
    kept, counts = enough_entities(pairs, ["one", "one two", "one two three"], tagger)
    assert kept.item.tolist() == [2, 3] and (counts.before, counts.after) == (3, 2)
    assert counts.more["entities a text"] == 2
    for wrong in ("nowhere:x", f"{__name__}:nothing", "words"):
        with pytest.raises(InputError, match=r"tagger.python .*write MODULE:NAME"):
            load_tagger(TaggerConfig(python=wrong), ITEMS, "title")


def test_hard_negatives_are_of_the_category_and_never_of_the_product():
    category = np.array([0, 0, 0, 0, 1, 1, -1, 2])
    product = np.array([5, 5, -1, -1, -1, -1, -1, -1])
    allowed = np.array([True] * 3 + [False] + [True] * 4)
    draw = SameCategory(category, product, allowed)
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = draw.draw(np.array([0, 4, 6]), 2, rng)
        assert 2 in drawn[0] and not {0, 1, 3} & set(drawn[0])  # the other one is of any category
        assert 5 in drawn[1] and 4 not in drawn[1] and 6 not in drawn[2] and 3 not in drawn
    assert draw.draw(np.array([0, 4]), 0, rng).shape == (2, 0)
