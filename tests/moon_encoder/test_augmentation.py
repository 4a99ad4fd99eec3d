"""Views are other pictures of the same thing, the same ones whenever they are asked for."""

import numpy as np
import pytest
from PIL import Image

from moon_encoder.augmentation import Augmentation, augmented, words_dropped
from tests.moon_encoder.conftest import picture

OFF = dict.fromkeys(("crop", "background", "cast", "noise", "blur", "flip", "grey"), 0.0)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((40, 56)), dtype=np.float64)


def test_a_view_depends_on_seed_view_and_item_alone():
    how, image = Augmentation(), picture(1)
    first = augmented(image, how, 0, 1, 5)
    for _ in range(3):
        np.random.default_rng().random()
        assert np.array_equal(np.asarray(augmented(image, how, 0, 1, 5)), np.asarray(first))
    others = [augmented(image, how, *key) for key in ((1, 1, 5), (0, 2, 5), (0, 1, 6))]
    assert all(not np.array_equal(pixels(other), pixels(first)) for other in others)


@pytest.mark.parametrize("change", list(OFF))
def test_each_change_does_what_it_says(change):
    image = picture(2)
    assert np.array_equal(np.asarray(augmented(image, Augmentation(**OFF), 0, 1, 1)), np.asarray(image))
    views = [augmented(image, Augmentation(**{**OFF, change: 1.0}), 0, view, 1) for view in range(20)]
    assert all(view.mode == "RGB" for view in views)
    assert sum(not np.array_equal(pixels(view), pixels(image)) for view in views) >= 16
    if change == "crop":
        assert all(0.5 * 40 - 1 <= v.width <= 40 and 0.5 * 56 - 1 <= v.height <= 56 for v in views)
        assert min(v.width for v in views) < 30
    if change == "background":
        assert all(v.width >= 40 and v.height >= 56 and v.width <= 60 for v in views)
    if change == "flip":
        assert np.array_equal(np.asarray(views[0]), np.asarray(image)[:, ::-1])
    if change == "grey":
        assert np.ptp(np.asarray(views[0]), axis=2).max() == 0
    if change in ("cast", "noise", "blur"):
        assert all(v.size == image.size for v in views)


def test_probabilities_are_probabilities():
    flipped = Augmentation(**{**OFF, "flip": 0.3})
    image = picture(3)
    changed = [not np.array_equal(pixels(augmented(image, flipped, 0, v, 0)), pixels(image)) for v in range(400)]
    assert 0.22 < np.mean(changed) < 0.38


def test_a_picture_of_one_pixel_survives_everything():
    every = Augmentation(**dict.fromkeys(OFF, 1.0))
    for view in range(20):
        assert min(augmented(Image.new("RGB", (1, 1), "red"), every, 0, view, 0).size) >= 1


def test_words_are_dropped_but_never_all():
    text = "a b c d e f g h i j"
    kept = [words_dropped(text, 0.5, 0, view, 1).split() for view in range(200)]
    assert 4 < np.mean([len(words) for words in kept]) < 6 and all(words == sorted(words) for words in kept)
    assert words_dropped(text, 0.0, 0, 1, 1) == text and words_dropped("", 0.9, 0, 1, 1) == ""
    assert all(words_dropped("one two", 0.99, 0, view, 1) for view in range(50))
