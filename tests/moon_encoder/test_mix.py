"""The published mix on what a dataset has; batches of one kind, every pair as often as the others, from any place."""

import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import InputError
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.mix import PUBLISHED_MIX, Batches, Kind, divide, load_sources
from moon_encoder.pairs import CoOccurrence

RULE = CoOccurrence(gap=None)


def kinds_of(root, mix=PUBLISHED_MIX, actions=None):
    contents = Contents.of(Dataset(root), Catalogue())
    sources = load_sources(mix, contents, RULE, 0, actions)
    return divide(sources, mix, contents, np.ones(len(contents), dtype=bool))


def test_the_published_weights():
    weights = {kind.name: kind.weight for kind in PUBLISHED_MIX}
    assert weights == {
        "text->rich": 0.2, "text->image": 0.2, "text->title+image": 0.2, "text->rich+image": 0.5,
        "image->image": 0.2, "image->title+image": 0.5, "image->rich+image": 0.2,
        "title+image->title+image": 0.5, "rich+image->rich+image": 0.1,
    }  # fmt: skip


def test_a_market_has_all_of_it(market):
    kinds, notes = kinds_of(market)
    assert [kind for kind, _ in kinds] == list(PUBLISHED_MIX) and notes == []
    sources = {kind.name: [p.source for p in parts] for kind, parts in kinds}
    assert sources["text->rich"] == ["search_text"] and sources["image->image"] == ["search_image"]
    assert sources["title+image->title+image"] == ["product"]


def test_what_a_dataset_lacks_is_left_out_with_a_note_and_the_rest_renormalised(small):
    mix = (*PUBLISHED_MIX, Kind(query="rich", item="rich", weight=0.3), Kind(query="title", item="title", weight=0.1))
    kinds, notes = kinds_of(small, mix)
    assert [kind.name for kind, _ in kinds] == ["rich->rich", "title->title"]  # no search, no pictures
    assert len(notes) == 9 and notes[4] == (
        "left out image->image: the dataset has no such pairs (search_text, search_image, given)"
    )
    order = Batches([len(p[0]) for _, p in kinds], [k.weight for k, _ in kinds], 16, 100, 0)
    assert order.counts.tolist() == [75, 25]


def test_only_the_actions_asked_for(market):
    everything = {k.name: sum(map(len, parts)) for k, parts in kinds_of(market)[0]}
    bought, _ = kinds_of(market, actions=("order",))
    for kind, parts in bought:
        assert {a for p in parts for a in p.action} == {"order"}
        assert sum(map(len, parts)) < everything[kind.name]


def test_augmented_pairs_come_only_by_name_and_never_with_the_answer_in_the_query(market):
    own = ("augmented",)
    mix = (
        Kind(query="text", item="image", weight=1, sources=own),
        Kind(query="text", item="rich+image", weight=1, sources=own),
        Kind(query="image", item="image", weight=1, sources=own),
    )
    kinds, notes = kinds_of(market, mix)
    assert [kind.name for kind, _ in kinds] == ["text->image (augmented)", "image->image (augmented)"]
    assert notes == ["left out text->rich+image (augmented): the dataset has no such pairs (augmented)"]


def test_batches_are_exact_shares_and_every_pair_comes_as_often():
    order = Batches([50, 23], [0.5, 0.1], batch=7, steps=12, seed=3)
    assert order.counts.tolist() == [10, 2] and order.counts.sum() == order.steps
    seen = [np.zeros(50, int), np.zeros(23, int)]
    for epoch in range(5):
        kinds = []
        for index in range(12):
            kind, rows = order.at(epoch, index)
            kinds.append(kind)
            np.add.at(seen[kind], rows, 1)
        assert np.bincount(kinds).tolist() == [10, 2]
    assert seen[0].min() == seen[0].max() == 7 and seen[1].max() - seen[1].min() <= 1


def test_any_batch_can_be_asked_for_directly():
    walked = Batches([50, 23], [1, 1], 7, 10, seed=3)
    all_of_it = [walked.at(epoch, index) for epoch in range(3) for index in range(10)]
    fresh = Batches([50, 23], [1, 1], 7, 10, seed=3)
    kind, rows = fresh.at(2, 4)
    assert kind == all_of_it[24][0] and np.array_equal(rows, all_of_it[24][1])
    other = Batches([50, 23], [1, 1], 7, 10, seed=4)
    assert any(not np.array_equal(other.at(0, i)[1], walked.at(0, i)[1]) for i in range(10))


def test_without_pairs_or_with_fewer_steps_than_kinds_it_is_one_line():
    with pytest.raises(InputError, match="no kind of pairs is left"):
        Batches([], [], 8, None, 0)
    with pytest.raises(InputError, match="steps_per_epoch 1 is fewer than the 2 kinds"):
        Batches([5, 5], [1, 1], 8, 1, 0)
    assert Batches([30, 5], [1, 1], 8, None, 0).steps == 5
