"""Metrics against scikit-learn and their definitions in loops; slices against counts; bad input by its message."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from data.dataset import Dataset
from data.errors import InputError
from ranker import metrics
from ranker.slices import popularity, slices


def rows(seed: int, n: int = 2000, users: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(np.int8)
    score = np.clip(np.round(0.3 * label + rng.random(n) * 0.7, 2), 0.005, 0.995)
    return label, score, rng.integers(0, users, n)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_scikit_learn_to_1e_12(seed):
    label, score, _ = rows(seed)
    assert metrics.auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert metrics.auc(label, np.zeros(len(label))) == 0.5
    assert metrics.logloss(label, score) == pytest.approx(log_loss(label, score), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_gauc_equals_a_loop_over_users(seed):
    label, score, user = rows(seed, n=300)
    total = weight = 0.0
    counted = 0
    for u in np.unique(user):
        y, s = label[user == u], score[user == u]
        if 0 < y.sum() < len(y):
            total, weight, counted = total + len(y) * roc_auc_score(y, s), weight + len(y), counted + 1
    found = metrics.gauc(label, score, user)
    assert found.value == pytest.approx(total / weight, abs=1e-12)
    assert (found.rows, found.groups) == (weight, counted)
    assert found.rows_share == pytest.approx(weight / 300)


def test_calibration_equals_its_definitions():
    label, score, _ = rows(7)
    rate = label.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert metrics.normalised_entropy(label, score) == pytest.approx(metrics.logloss(label, score) / entropy)
    assert metrics.pcoc(label, score) == pytest.approx(score.mean() / rate)
    order = np.argsort(score, kind="stable")
    bins = np.array_split(order, 20)
    gaps = [len(b) * abs(score[b].mean() - label[b].mean()) for b in bins]
    assert metrics.ece(label, score) == pytest.approx(sum(gaps) / len(label), abs=1e-12)


@pytest.mark.parametrize("kind", ["whole", "negative", "far apart", "text"])
def test_a_report_sorts_once_and_gives_each_slice_what_its_rows_alone_give(kind):
    label, score, user = rows(3)
    names = {"whole": user, "negative": user - 30, "far apart": user * 10**17, "text": user.astype(str)}[kind]
    masks = {f"every {n}": np.arange(2000) % n == 0 for n in (1, 2, 7)}
    found = metrics.report(label, score, names, masks)
    assert {m: found[m] for m in ("auc", "gauc", "ece")} == {
        "auc": metrics.auc(label, score),
        "gauc": metrics.gauc(label, score, user).value,
        "ece": metrics.ece(label, score),
    }
    for name, mask in masks.items():
        part = found["slices"][name]
        assert part["auc"] == pytest.approx(roc_auc_score(label[mask], score[mask]), abs=1e-12)
        alone = metrics.gauc(label[mask], score[mask], names[mask])
        assert (part["gauc"], part["gauc_rows_share"]) == (alone.value, alone.rows_share)
    assert found["users"] == len(np.unique(names))


def test_a_small_slice_is_marked_and_a_slice_of_one_class_says_why():
    label, score, user = rows(8)
    masks = {"few": np.arange(2000) < 40, "negatives": label == 0, "none": np.zeros(2000, bool), "all": label >= 0}
    found = metrics.report(label, score, user, masks)["slices"]
    assert found["few"]["too_small"] and found["few"]["rows"] == 40 and found["few"]["auc"] is not None
    assert found["negatives"]["auc"] is None and found["negatives"]["reason"] == "one class only"
    assert found["none"]["reason"] == "no rows"
    assert found["all"]["auc"] == pytest.approx(roc_auc_score(label, score)) and "too_small" not in found["all"]


@pytest.mark.parametrize(
    ("label", "score", "message"),
    [
        ([0, 1], [0.1, np.nan], "score of row 1 is nan; 1 of 2 scores are not finite"),
        ([0, 1], [np.inf, 0.1], "score of row 0 is inf"),
        ([1, 1], [0.1, 0.2], "needs both classes; all 2 labels are 1"),
        ([0, 2], [0.1, 0.2], "label of row 1 is 2; labels must be 0 or 1"),
        ([0, 1, 1], [0.1, 0.2], r"got \[2, 3\] rows"),
        ([], [], "at least one row"),
    ],
)
def test_bad_input_is_named(label, score, message):
    with pytest.raises(InputError, match=message):
        metrics.auc(np.array(label), np.array(score, np.float64))


def test_popularity_splits_the_impressions_and_not_the_items():
    level = popularity(np.array([50, 0, 30, 10, 6, 4, 0]))
    assert level.tolist() == [0, 2, 1, 1, 2, 2, 2]


def test_slices_count_train_rows(small):
    dataset = Dataset(small)
    frame = dataset.samples("test").select("item", "history_end").collect()
    shown = dataset.samples("train").collect()["item"].value_counts()
    counts = dict(shown.iter_rows())
    masks = slices(dataset, frame)
    seen = [counts.get(item, 0) for item in frame["item"]]
    assert masks["new_items"].tolist() == [n == 0 for n in seen]
    assert masks["cold_items"].tolist() == [n < 10 for n in seen]
    levels = masks["head_items"].astype(int) + masks["torso_items"] + masks["tail_items"]
    assert (levels == 1).all()
    history = sum(mask.astype(int) for name, mask in masks.items() if name.startswith("history_"))
    assert (history == 1).all()
    category = dataset.items().collect()["category"].gather(frame["item"])
    assert masks["category_Drama"].tolist() == (category == "Drama").fill_null(False).to_list()
