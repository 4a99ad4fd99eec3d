"""What the frozen part made is computed once, and training on it is training on the pictures."""

import numpy as np
import pytest
import torch

from data.dataset import Dataset
from moon_encoder.checkpoint import build_encoder
from moon_encoder.content import Content
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.frozen_cache import item_pictures, item_texts
from moon_encoder.pairs import CoOccurrence, load_pairs
from moon_encoder.shown import PLAIN, Shown, Views
from tests.moon_encoder.conftest import dual_config, picture


@pytest.fixture(scope="module")
def shop(market) -> Contents:
    return Contents.of(Dataset(market), Catalogue())


@pytest.mark.parametrize("vision", [{}, {"trainable_from": 2}])
def test_pictures_and_what_the_frozen_part_made_of_them_give_the_same_vectors(towers, vision):
    encoder = build_encoder(dual_config(towers, vision=vision)).eval()
    images = [picture(i) for i in range(4)]
    frozen, words = encoder.frozen_images(images), encoder.frozen_texts(["red shirt", "blue watch men"])
    assert frozen is not None and words is not None
    plain = [Content("red shirt", images[0]), Content(image=images[1]), Content("blue watch men", images[2])]
    given = [Content(words[0], frozen[0]), Content(image=frozen[1]), Content(words[1], frozen[2])]
    with torch.no_grad():
        torch.testing.assert_close(encoder(encoder.prepare(given)), encoder(encoder.prepare(plain)), rtol=0, atol=1e-5)


def test_the_digest_is_that_of_the_frozen_part(towers):
    encoder = build_encoder(dual_config(towers, vision={"trainable_from": 2}))
    before = encoder.frozen_digest()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter += 1.0
    assert encoder.frozen_digest() == before
    with torch.no_grad():
        next(p for p in encoder.parameters() if not p.requires_grad).add_(1.0)
    assert encoder.frozen_digest() != before
    assert build_encoder(dual_config(towers, vision={"trainable_from": 1})).frozen_digest() != before


def test_a_tower_that_is_trained_whole_has_nothing_to_keep(shop, towers, tmp_path):
    encoder = build_encoder(dual_config(towers, vision={"trainable_from": 0}, text={"trainable_from": 1}))
    assert encoder.frozen_images([picture(0)]) is None and encoder.frozen_texts(["red"]) is None
    assert item_pictures(encoder, shop, tmp_path) is None and item_texts(encoder, shop, "title", tmp_path) is None
    shown = Shown(shop, encoder.eval(), Views(), 0, tmp_path).items(np.array([3]), "image")
    with torch.no_grad():
        torch.testing.assert_close(encoder(shown), encoder(encoder.prepare([Content(image=shop.item_image(3))])))


def test_texts_of_items_are_computed_once_and_are_of_one_form(shop, towers, tmp_path, monkeypatch):
    encoder = build_encoder(dual_config(towers)).eval()
    texts = item_texts(encoder, shop, "title", tmp_path)
    expected = encoder.frozen_texts(shop.titles[[4, 2]].tolist())
    np.testing.assert_allclose(texts(np.array([4, 2])), expected, atol=1e-3)
    monkeypatch.setattr(encoder, "frozen_texts", lambda texts: pytest.fail("computed again"))
    again = item_texts(encoder, shop, "title", tmp_path)
    assert np.array_equal(again(np.array([2, 4, 2])), texts(np.array([2, 4, 2])))
    assert item_texts(encoder, shop, "rich", tmp_path).folder != texts.folder
    assert (
        encoder.frozen_text_digest() != build_encoder(dual_config(towers, text={"max_tokens": 4})).frozen_text_digest()
    )


def test_whole_texts_of_items_are_computed_once_for_all_runs(shop, towers, tmp_path, monkeypatch):
    encoder = build_encoder(dual_config(towers)).eval()
    frozen, made, rows = encoder.frozen_texts, [], np.array([4, 2])
    monkeypatch.setattr(encoder, "frozen_texts", lambda texts: made.extend(texts) or frozen(texts))
    views = Views(words=0.9)  # pyright: ignore[reportCallIssue]

    def vectors(cache, view):
        made.clear()  # with the probe that tells whether the text part is frozen
        with torch.no_grad():
            return encoder(Shown(shop, encoder, views, 0, cache).items(rows, "title", view)), made[1:]

    plain, _ = vectors(None, PLAIN)
    first, of_first = vectors(tmp_path, PLAIN)
    again, of_again = vectors(tmp_path, PLAIN)
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-3)
    assert sorted(of_first) == sorted(shop.titles[rows]) and not of_again and torch.equal(first, again)
    shortened, of_shortened = vectors(tmp_path, 1)
    assert of_shortened and not torch.equal(shortened, first)


def test_a_picture_that_is_left_out_does_not_change_the_folder(market, towers, tmp_path):
    encoder, shop = build_encoder(dual_config(towers)), Contents.of(Dataset(market), Catalogue())
    before = item_pictures(encoder, shop, tmp_path).folder
    shop.leave_out_image(3)
    assert item_pictures(encoder, shop, tmp_path).folder == before


def test_rows_are_computed_once_and_shared_by_runs(shop, towers, tmp_path, monkeypatch):
    encoder = build_encoder(dual_config(towers, vision={"trainable_from": 2})).eval()
    made = []
    frozen = encoder.frozen_images
    monkeypatch.setattr(encoder, "frozen_images", lambda images: made.append(len(images)) or frozen(images))

    def vectors(shown, items, view):
        with torch.no_grad():
            return encoder(shown.items(np.array(items), "title+image", view))

    plain = Shown(shop, encoder, Views(), 0, None)
    first = Shown(shop, encoder, Views(), 0, tmp_path)
    for view in (PLAIN, 1):
        torch.testing.assert_close(vectors(first, [3, 5, 3], view), vectors(plain, [3, 5, 3], view), rtol=0, atol=1e-3)
    assert not torch.equal(vectors(first, [3], 1), vectors(first, [3], PLAIN)) and sum(made) == 4
    again = Shown(shop, encoder, Views(), 0, tmp_path)
    torch.testing.assert_close(vectors(again, [5, 9], 1), vectors(plain, [5, 9], 1), rtol=0, atol=1e-3)
    assert sum(made) == 5  # only item 9 was new
    vectors(Shown(shop, encoder, Views(), 1, tmp_path), [5], 1)  # another seed draws other views
    vectors(Shown(shop, encoder, Views(), 1, tmp_path), [5], PLAIN)
    assert sum(made) == 6


def test_queries_by_picture_come_from_the_query_store(shop, towers, tmp_path):
    encoder = build_encoder(dual_config(towers)).eval()
    pairs = load_pairs("search_image", shop, "train", CoOccurrence())[:5]
    for cache in (None, tmp_path):
        shown = Shown(shop, encoder, Views(), 0, cache)
        with torch.no_grad():
            got = encoder(shown.queries(pairs, "image", PLAIN))
            want = encoder(encoder.prepare([Content(image=shop.query_image(key)) for key in pairs.query]))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3)
