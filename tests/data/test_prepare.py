"""Preparing against a reference in plain loops: histories, counts, splits, order; publishing is all or nothing."""

import errno
import hashlib
import os

import numpy as np
import polars as pl
import pytest

import moon
from data import prepare as preparing
from data import spill, timeline
from data.dataset import SPLITS, Dataset
from data.errors import InputError
from data.prepare import prepare
from data.source import Split
from data.sources.movielens_posters import MovielensPosters
from tests.conftest import write_ratings
from tests.data.toy_log import T0, ToyLog, random_rows

RULES = {
    "within_user": Split(rule="within_user"),
    "temporal": Split(rule="temporal", cuts=(T0 + 2400, T0 + 3300)),
    "given": Split(rule="given"),
}


def reference(rows: pl.DataFrame, split: Split) -> tuple[dict[str, list[dict]], dict[int, list[dict]]]:
    """(samples of each split, behaviours of each user) in their promised order, by loops over all pairs of events."""
    index = {key: {v: i for i, v in enumerate(sorted(set(rows[f"{key}_id"].to_list())))} for key in ("user", "item")}
    events = [
        {**row, "user": index["user"][row["user_id"]], "item": index["item"][row["item_id"]]}
        for row in rows.iter_rows(named=True)
    ]
    events.sort(key=lambda e: (e["ts"], e["user"], e["item"]))  # stable: the log's order among equals
    behaviors = {
        user: sorted((e for e in events if e["user"] == user and e["action"] is not None), key=lambda e: e["ts"])
        for user in index["user"].values()
    }
    samples = [e for e in events if e["sample"]]
    of_user = {u: [e for e in samples if e["user"] == u] for u in behaviors}
    for user, own in of_user.items():
        for k, event in enumerate(own):
            if split.rule == "within_user":
                share = k / len(own)
                event["in"] = "train" if share < 0.8 else "valid" if share < 0.9 else "test"
            elif split.rule == "temporal":
                assert split.cuts
                event["in"] = SPLITS[sum(event["ts"] >= cut for cut in split.cuts)]
            else:
                event["in"] = event["split"]
            event["history_end"] = sum(b["ts"] < event["ts"] for b in behaviors[user])
    for event in samples:
        for key in ("item", "user"):
            past = [e for e in samples if e["in"] == "train" and e[key] == event[key] and e["ts"] < event["ts"]]
            event[f"{key}_impressions"] = len(past)
            event[f"{key}_positives"] = sum(e["label"] == 1 for e in past)
    return {name: [e for e in samples if e["in"] == name] for name in SPLITS}, behaviors


def check_against_reference(out, rows: pl.DataFrame, split: Split) -> None:
    """The prepared dataset equals the reference in every column of every row."""
    dataset, (samples, behaviors) = Dataset(out), reference(rows, split)
    for name in SPLITS:
        found = dataset.samples(name).collect()
        wanted = pl.DataFrame(samples[name], infer_schema_length=None)
        assert len(found) == dataset.meta["counts"][name] == len(wanted) > 20
        for column in found.columns:
            assert found[column].to_list() == pytest.approx(wanted[column].to_list()), (name, column)
    csr = dataset.behaviors()
    assert len(csr.offsets) == len(behaviors) + 1
    for user, own in behaviors.items():
        here = slice(csr.offsets[user], csr.offsets[user + 1])
        assert csr.ts[here].tolist() == [b["ts"] for b in own]
        assert csr.item[here].tolist() == [b["item"] for b in own]
        assert csr.action[here].tolist() == [b["action"] for b in own]
        assert csr.side["weight"][here].tolist() == pytest.approx([b["weight"] for b in own])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bucket_rows", [1 << 20, 100])
def test_every_row_equals_the_reference(tmp_path, monkeypatch, rule, bucket_rows):
    monkeypatch.setattr(spill, "BUCKET_ROWS", bucket_rows)
    monkeypatch.setattr(spill, "SPAN_SECONDS", 60)
    monkeypatch.setattr(timeline, "GROUP_ROWS", 64)
    monkeypatch.setattr(timeline, "PART_ROWS", 256)
    rows = random_rows()
    prepare(ToyLog(rows, RULES[rule], chunk=230), tmp_path / "out")
    check_against_reference(tmp_path / "out", rows, RULES[rule])


def test_the_size_of_buckets_and_chunks_changes_no_byte_of_the_content(tmp_path, monkeypatch):
    rows = random_rows()
    whole = prepare(ToyLog(rows, chunk=10_000), tmp_path / "whole")
    monkeypatch.setattr(spill, "BUCKET_ROWS", 50)
    monkeypatch.setattr(spill, "SPAN_SECONDS", 10)
    assert prepare(ToyLog(rows, chunk=77), tmp_path / "cut")["fingerprint"] == whole["fingerprint"]


def test_ties_within_a_second_do_not_see_each_other(tmp_path):
    event = {"user_id": 1, "label": 1.0, "action": 0, "sample": True, "weight": 0.0, "hour": 0}
    ts = [10, 10, 10, 11, 11, 12, 20, 21, 22, 23]
    rows = pl.DataFrame([{**event, "item_id": i % 3, "ts": t} for i, t in enumerate(ts)])
    prepare(ToyLog(rows), tmp_path / "out")
    train = Dataset(tmp_path / "out").samples("train").collect()
    assert train["history_end"].to_list() == [0, 0, 0, 3, 3, 5, 6, 7]
    assert train["user_impressions"].to_list() == [0, 0, 0, 3, 3, 5, 6, 7]


def test_without_cuts_time_is_cut_at_the_first_span_that_holds_the_share(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "SPAN_SECONDS", 50)
    rows = random_rows()
    meta = prepare(ToyLog(rows, Split(rule="temporal", train=0.6, valid=0.2)), tmp_path / "out")
    samples = np.sort(rows.filter("sample")["ts"].to_numpy())
    for cut, share in zip(meta["split"]["cuts"], (0.6, 0.8), strict=True):
        assert cut % 50 == 0
        assert np.mean(samples < cut) >= share > np.mean(samples < cut - 50)
    check_against_reference(tmp_path / "out", rows, Split(**meta["split"]))


def test_first_seen_is_the_first_event_of_any_kind_and_null_without_one(tmp_path):
    rows = random_rows()
    catalogue = pl.DataFrame({"item_id": [5, *rows["item_id"].unique().to_list()[:10]], "title": list("abcdefghijk")})
    users = pl.DataFrame({"user_id": [*rows["user_id"].unique().to_list(), 7], "age": range(13)})
    prepare(ToyLog(rows, catalogue=catalogue, user_table=users), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    items, first = dataset.items().collect(), dict(rows.group_by("item_id").agg(pl.col("ts").min()).iter_rows())
    assert items["item_id"].to_list() == sorted({5, *rows["item_id"].to_list()})
    assert items["first_seen_ts"].to_list() == [first.get(i) for i in items["item_id"]]
    assert items["title"].null_count() == len(items) - 11
    assert dataset.users().collect()["user_id"].to_list() == sorted(set(rows["user_id"].to_list()))


def test_movielens_gives_the_known_counts(shared, tmp_path):
    meta = prepare(MovielensPosters(shared / "datasets" / "movielens_posters"), tmp_path / "out")
    assert [meta["counts"][s] for s in SPLITS] == [243_692, 30_467, 29_545]
    assert not meta["rejected"]


def files_of(out) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*")) if p.is_file()}


STEPS = [
    (timeline.SampleWriter, "close"),
    (timeline.BehaviorWriter, "write"),
    (preparing, "audit"),
    (preparing, "exchange"),
]


@pytest.mark.parametrize(("where", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))], ids=repr)
def test_a_crash_leaves_the_old_dataset_and_nothing_beside_it(tmp_path, monkeypatch, capsys, where, name, error):
    raw, out = write_ratings(tmp_path / "raw"), tmp_path / "out"
    prepare(MovielensPosters(raw), out)
    before = files_of(out)
    write_ratings(raw, seed=1)

    def crash(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(where, name, crash)
        status = moon.main(["prepare", "movielens_posters", "--root", str(raw), "--out", str(out)])
    told = capsys.readouterr().err.splitlines()[-1]
    if isinstance(error, OSError):
        assert status == 1
        assert told == f"moon prepare: disk full while writing {out}; nothing half-written was published"
    else:
        assert status == 130
    assert files_of(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]
    assert moon.main(["prepare", "movielens_posters", "--root", str(raw), "--out", str(out)]) == 0
    assert files_of(out) != before


def test_the_disk_space_of_behaviours_is_taken_before_they_are_written(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        prepare(ToyLog(random_rows()), tmp_path / "out")
    assert error.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out: exists and is no prepared dataset; give another --out$"):
        prepare(ToyLog(random_rows()), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("rule", "empty"), [(Split(rule="temporal", cuts=(T0 - 1, T0 + 3300)), "train"), (Split(rule="given"), "valid")]
)
def test_an_empty_split_is_an_error(tmp_path, rule, empty):
    rows = random_rows().filter(pl.col("split") != "valid")
    with pytest.raises(InputError, match=f"^split '{empty}' would be empty under rule '{rule.rule}'.*other shares$"):
        prepare(ToyLog(rows, rule), tmp_path / "out")
    assert not list(tmp_path.iterdir())
