"""A batch against a reference in plain loops: ids, histories by action and length, sides, bags, distinct items."""

from bisect import bisect_right
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from features.batch import Batch
from features.collate import Collator
from features.encoder import FeatureEncoder
from features.histories import Histories, ranges
from features.samples import SampleEncoder
from features.spec import FeatureSpec, Sequence
from tests.features.conftest import SPEC


@pytest.fixture(scope="module")
def samples(spec, dataset) -> SampleEncoder:
    return SampleEncoder(FeatureEncoder.fit(spec, dataset), dataset)


def window_of(samples: SampleEncoder, split: str):
    frame = samples.dataset.samples(split).collect().with_row_index("row")
    return samples.window(frame.select(pl.col("row").cast(pl.Int64), *samples.read_columns))


def ids(batch: Batch, name: str) -> list[int]:
    """The ids of a look-up, whatever table width it is in."""
    return next(kjt[name].values().tolist() for kjt in batch.ids.values() if name in kjt.to_dict())


def history(samples: SampleEncoder, row: dict, sequence: Sequence) -> list[dict]:
    """Behaviours that the sample sees, oldest first, by a filter over all of the user's."""
    b, names = samples.dataset.behaviors(), samples.dataset.actions
    own = range(b.offsets[row["user"]], b.offsets[row["user"] + 1])
    seen = [
        {"item": int(b.item[i]), "ts": int(b.ts[i]), "action": names[b.action[i]], "weight": float(b.side["weight"][i])}
        for i in own
        if b.ts[i] < row["ts"]
    ]
    return [s for s in seen if sequence.actions is None or s["action"] in sequence.actions][-sequence.length :]


def known(values: list, value: object) -> int:
    """Row of a value among sorted known ones; 0 if it is not among them."""
    return values.index(value) + 1 if value in values else 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_id_of_every_row(samples, spec, split):
    rows = samples.dataset.samples(split).collect().to_dicts()
    chosen = np.random.default_rng(0).permutation(len(rows))[:150]
    batch = Collator(samples).collate(window_of(samples, split), chosen)
    items = samples.dataset.items().collect().to_dicts()
    users = samples.dataset.users().collect().to_dicts()
    words = {t: v.values.tolist() for t, v in samples.encoder.vocabularies.items()}
    cuts = {n: b.cuts.tolist() for n, b in samples.encoder.buckets.items()}

    assert batch.row.tolist() == chosen.tolist()
    assert batch.label.tolist() == [rows[i]["label"] for i in chosen]
    assert batch.items[batch.target].tolist() == [rows[i]["item"] for i in chosen]
    assert len(set(batch.items.tolist())) == len(batch.items)
    assert ids(batch, "user") == [known(words["user"], users[rows[i]["user"]]["user_id"]) for i in chosen]
    ages = [users[rows[i]["user"]]["age"] for i in chosen]
    assert ids(batch, "age") == [1 + bisect_right(cuts["age"], a) for a in ages]
    assert ids(batch, "seen") == [1 + bisect_right(cuts["seen"], rows[i]["item_impressions"]) for i in chosen]
    shown = [items[i] for i in batch.items.tolist()]
    assert ids(batch, "item") == [known(words["item"], x["item_id"]) for x in shown]
    assert ids(batch, "shop") == [known(words["shop"], x["shop"]) for x in shown]
    assert ids(batch, "price") == [0 if x["price"] is None else 1 + bisect_right([1, 2, 3], x["price"]) for x in shown]
    assert ids(batch, "tags") == [known(words["tags"], t) for x in shown for t in x["tags"]]
    assert batch.bags["tags"].tolist() == [len(x["tags"]) for x in shown] and set(batch.bags) == {"tags"}

    for sequence in spec.sequences:
        found = batch.sequences[sequence.name]
        histories = [history(samples, rows[i], sequence) for i in chosen]
        assert found.lengths.tolist() == [len(h) for h in histories]
        assert found.row.tolist() == [n for n, h in enumerate(histories) for _ in h]
        assert batch.items[found.item].tolist() == [b["item"] for h in histories for b in h]
    assert max(batch.sequences["bought"].lengths) == 3 and max(batch.sequences["acted"].lengths) > 20

    sequence = spec.sequences[1]
    histories = [(rows[i]["ts"], history(samples, rows[i], sequence)) for i in chosen]
    side = batch.sequences["bought"].side
    assert side is not None

    def of_behaviours(name: str) -> list[int]:
        return np.array(ids(batch, name))[side.numpy()].tolist()

    assert of_behaviours("bought_weight") == [
        1 + bisect_right([0.3, 0.6], b["weight"]) for _, h in histories for b in h
    ]
    assert of_behaviours("bought_age") == [
        1 + bisect_right([100, 500, 1500], ts - b["ts"]) for ts, h in histories for b in h
    ]
    assert of_behaviours("bought_position") == [
        1 + bisect_right([2, 3], len(h) - n) for _, h in histories for n in range(len(h))
    ]
    combinations = list(zip(*(ids(batch, f"bought_{n}") for n in ("weight", "age", "position")), strict=True))
    assert len(combinations) == len(set(combinations))
    acted = batch.sequences["acted"]
    assert acted.side is not None and batch.sequences["all"].side is None
    actions = [b["action"] for i in chosen for b in history(samples, rows[i], spec.sequences[2])]
    codes = np.array(ids(batch, "acted_action"))[acted.side.numpy()].tolist()
    assert codes == [known([0, 1], ["click", "buy"].index(a)) for a in actions]


def test_rows_of_one_context_get_what_they_get_apart(samples):
    """Candidates shown to one user at one moment: the history is encoded once and shared."""
    window = window_of(samples, "test")
    rows = np.random.default_rng(1).integers(0, len(window), 12)
    chosen = np.repeat(rows, 5)
    apart = Collator(samples).collate(window, chosen)
    shared = Collator(samples).collate(replace(window, context=np.arange(len(window))), chosen)
    assert shared.items[shared.target].tolist() == apart.items[apart.target].tolist()
    for name, one in apart.sequences.items():
        other = shared.sequences[name]
        assert other.lengths.tolist() == one.lengths.tolist() and other.row.tolist() == one.row.tolist()
        assert shared.items[other.item].tolist() == apart.items[one.item].tolist()
    for name in ("weight", "age", "position"):
        pairs = [np.array(ids(b, f"bought_{name}"))[b.sequences["bought"].side.numpy()] for b in (apart, shared)]  # type: ignore[union-attr]
        assert pairs[0].tolist() == pairs[1].tolist()


def test_many_combinations_of_sides_give_the_same(samples, monkeypatch):
    window = window_of(samples, "test")
    few = Collator(samples).collate(window, np.arange(40))
    monkeypatch.setattr("features.collate.MAX_COMBINATIONS", 1)
    many = Collator(samples).collate(window, np.arange(40))
    for name in ("weight", "age", "position"):
        pairs = [np.array(ids(b, f"bought_{name}"))[b.sequences["bought"].side.numpy()] for b in (few, many)]  # type: ignore[union-attr]
        assert pairs[0].tolist() == pairs[1].tolist()


def test_an_empty_batch(samples):
    batch = Collator(samples).collate(window_of(samples, "test"), np.empty(0, np.int64))
    assert len(batch) == 0 and len(batch.items) == 0 and batch.sequences["bought"].side is not None


def test_an_item_seen_too_rarely_is_oov(samples):
    ids = samples.dataset.items().collect()["item_id"].to_numpy()
    rare = ~np.isin(ids, samples.encoder.vocabularies["item"].values)
    assert rare.any() and ((samples.item_codes["item"].values == 0) == rare).all()


def test_the_oov_rate_replaces_that_share_in_training_only(dataset):
    tables = {"user": {"oov_rate": 0.25}, "shop": {"oov_rate": 0.5}}
    spec = FeatureSpec.model_validate(SPEC | {"tables": tables})
    samples = SampleEncoder(FeatureEncoder.fit(spec, dataset), dataset)
    window, collator = window_of(samples, "train"), Collator(samples)
    chosen = np.arange(len(window))
    plain = collator.collate(window, chosen)
    dropped = [collator.collate(window, chosen, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    users = [np.array(ids(b, "user")) for b in dropped]
    assert users[0].tolist() == users[1].tolist() != users[2].tolist()
    gone = users[0] != np.array(ids(plain, "user"))
    assert (users[0][gone] == 0).all() and 0.2 < gone.mean() < 0.3
    assert ids(dropped[0], "item") == ids(plain, "item") and ids(dropped[0], "age") == ids(plain, "age")


@pytest.mark.parametrize("root", ["files", "memory"])
@pytest.mark.parametrize("actions", [None, (0,), (1,), (0, 1)])
def test_counts_and_positions_by_action(dataset, actions, root):
    behaviors = dataset.behaviors()
    behaviors = replace(behaviors, root=None) if root == "memory" else behaviors
    histories, rng = Histories(behaviors, actions), np.random.default_rng(0)
    rows = rng.integers(0, len(behaviors.offsets) - 1, 60)
    ends = rng.integers(0, np.diff(behaviors.offsets)[rows] + 1)
    wanted = []
    for row, end in zip(rows, ends, strict=True):
        places = range(behaviors.offsets[row], behaviors.offsets[row] + end)
        wanted.append([p for p in places if actions is None or behaviors.action[p] in actions])
    assert histories.counts(rows, ends).tolist() == [len(w) for w in wanted]
    spans = histories.last(rows, ends, 5)
    assert spans.lengths.tolist() == [min(len(w), 5) for w in wanted]
    assert spans.positions.tolist() == [p for w in wanted for p in w[-5:]]


def test_ranges():
    assert ranges(np.array([5, 9, 0]), np.array([2, 0, 3])).tolist() == [5, 6, 0, 1, 2]
    assert ranges(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
