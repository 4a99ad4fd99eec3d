"""Pairs by source against plain loops: in time, without held-out items, in forms that exist."""

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.errors import InputError
from data.pairs import split_ends
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.held_out import TEST, TRAIN, VALID, HeldOut
from moon_encoder.pairs import CoOccurrence, load_pairs, usable

ANY = CoOccurrence(gap=None)


@pytest.fixture(scope="module")
def shop(market) -> Contents:
    return Contents.of(Dataset(market), Catalogue(product="spu"))


@pytest.fixture(scope="module")
def films(small) -> Contents:
    return Contents.of(Dataset(small), Catalogue(rich=("genres", "year")))


def test_texts_of_items(films):
    row = films.dataset.items().collect().row(3, named=True)
    assert films.titles[3] == row["title"]
    genres = [" ".join(row["genres"])] if row["genres"] else []
    assert films.rich[3] == ", ".join([row["title"], *genres, str(row["year"])])
    assert films.has("title").all() and not films.has("image").any() and not films.has("title+image").any()
    assert [films.category_names[c] if c >= 0 else None for c in films.category] == films.dataset.items().collect()[
        "category"
    ].to_list()


def test_a_column_that_is_not_there_is_named(small):
    with pytest.raises(InputError, match="no column 'spu'; it has item_id"):
        Contents.of(Dataset(small), Catalogue(product="spu"))


def test_searches_are_those_of_the_split(shop):
    log = pl.read_parquet(shop.dataset.root / "pairs" / "search.parquet")
    for split in ("train", "valid", "test"):
        text, image = (load_pairs(s, shop, split, ANY) for s in ("search_text", "search_image"))
        mine = log.filter(pl.col("split") == split)
        assert len(text) + len(image) == len(mine) and len(image) == mine["query_image"].is_not_null().sum() > 0
        assert text.asked_by == "text" and image.asked_by == "image" and not (text.query_item >= 0).any()
    assert load_pairs("co_engagement", shop, "train", ANY).item.size == 0
    assert len(load_pairs("given", shop, "train", ANY)) == 0


@pytest.mark.parametrize(("gap", "window"), [(None, 3), (600, 2)])
def test_behaviours_that_stand_together_are_those_of_a_plain_loop(films, gap, window):
    data = films.dataset
    behaviors, ends = data.behaviors(), split_ends(data)
    liked, found = data.actions.index("liked"), 0
    for split, low, high in (("train", None, ends[0]), ("valid", ends[0], ends[1]), ("test", ends[1], None)):
        expected = []
        for user in range(len(behaviors.offsets) - 1):
            rows = [r for r in range(*behaviors.offsets[user : user + 2]) if behaviors.action[r] == liked]
            for i, b in enumerate(rows):
                after = low is None or behaviors.ts[b] >= low[user]
                if after and (high is None or behaviors.ts[b] < high[user]):
                    expected += [
                        (int(behaviors.item[a]), int(behaviors.item[b]), user, int(behaviors.ts[b]))
                        for a in rows[max(i - window, 0) : i]
                        if gap is None or behaviors.ts[b] - behaviors.ts[a] <= gap
                    ]
        rule = CoOccurrence(actions=("liked",), window=window, gap=gap)
        pairs = load_pairs("co_engagement", films, split, rule)  # type: ignore[arg-type]
        got = list(zip(*(x.tolist() for x in (pairs.query_item, pairs.item, pairs.user, pairs.ts)), strict=True))
        assert sorted(got) == sorted(expected)
        found += len(expected)
        assert set(pairs.action) <= {"liked"}
    assert found > 10


def test_heavy_users_are_capped_by_seed(films):
    def load(seed):
        return load_pairs("co_engagement", films, "train", CoOccurrence(gap=None, per_user=7), seed)

    assert np.bincount(load(0).user).max() == 7
    assert np.array_equal(load(0).item, load(0).item) and not np.array_equal(load(0).item, load(1).item)
    with pytest.raises(InputError, match="no action 'buy' for pairs of co_engagement; it has disliked, liked"):
        load_pairs("co_engagement", films, "train", CoOccurrence(actions=("buy",)))


def test_what_a_user_disliked_before_a_pair_is_lost_by_it(films):
    behaviors, actions = films.dataset.behaviors(), films.dataset.actions
    rule = CoOccurrence(gap=None, window=3, lost=("disliked",))
    pairs = load_pairs("co_engagement", films, "train", rule)
    liked = CoOccurrence(gap=None, window=3, actions=("liked",))
    assert np.array_equal(pairs.item, load_pairs("co_engagement", films, "train", liked).item)
    assert pairs.clicked is not None and sum(map(len, pairs.clicked)) > 100
    for row in range(0, len(pairs), 7):
        mine = range(*behaviors.offsets[pairs.user[row] : pairs.user[row] + 2])
        before = [r for r in mine if behaviors.ts[r] <= pairs.ts[row] and actions[behaviors.action[r]] == "disliked"]
        assert pairs.clicked[row] == [i for i in behaviors.item[before][-3:].tolist() if i != pairs.item[row]]
    with pytest.raises(InputError, match="no action 'hated'"):
        load_pairs("co_engagement", films, "train", CoOccurrence(lost=("hated",)))


def test_held_out_items_are_in_no_usable_pair(shop):
    items = shop.dataset.items().collect()
    rule = HeldOut(key="spu", valid=0.2, test=0.3)
    parts = rule.parts(items)
    assert {TRAIN, VALID, TEST} == set(parts.tolist())
    for _, group in items.with_columns(part=pl.Series(parts)).group_by("spu"):
        assert group["part"].n_unique() == 1  # SKUs of a product are held out together
    allowed = parts == TRAIN
    for source, query, item in (("search_image", "image", "image"), ("product", "title+image", "rich+image")):
        pairs = load_pairs(source, shop, "train", ANY)
        kept = usable(pairs, shop, query, item, allowed)
        assert 0 < len(kept) < len(pairs) and allowed[kept.item].all()
        assert allowed[kept.query_item[kept.query_item >= 0]].all()


def test_the_division_depends_on_key_and_salt_alone(shop):
    items = shop.dataset.items().collect()
    parts = HeldOut(valid=0.2, test=0.3).parts(items)
    shuffled = items.sample(fraction=1.0, shuffle=True, seed=1)
    again = HeldOut(valid=0.2, test=0.3).parts(shuffled)
    assert dict(zip(items["item_id"], parts, strict=True)) == dict(zip(shuffled["item_id"], again, strict=True))
    assert not np.array_equal(parts, HeldOut(valid=0.2, test=0.3, salt="x").parts(items))
    assert abs((parts == TEST).mean() - 0.3) < 0.1 and not HeldOut().parts(items).any()
    with pytest.raises(InputError, match=r"held_out.key: the catalogue has no column 'sku'"):
        HeldOut(key="sku", test=0.1).parts(items)


def test_augmented_pairs_are_the_items_themselves(films):
    pairs = load_pairs("augmented", films, "train", ANY)
    assert np.array_equal(pairs.query_item, pairs.item) and len(pairs) == len(films) and (pairs.user == -1).all()
