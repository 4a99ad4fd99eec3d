"""The inbox: a new item has its vector within seconds, nothing is lost or doubled, bad files do not stop it."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import moon
from features.item_rows import ItemRows
from features.store import Store
from moon_encoder.checkpoint import encoder_info, load_encoder, save_encoder
from moon_encoder.content import Content
from moon_encoder.embed_job import encoder_name
from moon_encoder.watch import Watcher
from tests.moon_encoder.conftest import picture
from tests.moon_encoder.posters import ITEMS, encoded, prepare_posters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(dual, tmp_path):
    """(encoder, store, inbox): a catalogue that is embedded, item 8 without a vector."""
    data = prepare_posters(tmp_path, files={"8.jpg": b""}, titles={8: ""})
    save_encoder(dual, tmp_path / "encoder", "small", "initial")
    words = [tmp_path / "encoder", "--data", data, "--store", tmp_path / "s"]
    assert moon.main(["encoder", "embed", *map(str, words)]) == 0
    (tmp_path / "in" / "photos").mkdir(parents=True)
    return tmp_path / "encoder", tmp_path / "s", tmp_path / "in"


def drop(inbox, name, rows):
    """As a shop would: pictures first, then the rows under a dotted name, then the rename."""
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("image"), str) and row["image"].startswith("photos/new"):
            (inbox / row["image"]).write_bytes(encoded(picture(row["item_id"])))
    part = inbox / f".{name}"
    if name.endswith(".parquet"):
        pl.DataFrame(rows).write_parquet(part)
    else:
        part.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    part.rename(inbox / name)


def item(n, title="red shoe"):
    return {"item_id": n, "title": title, "image": f"photos/new{n}.png"}


def watch(place, *more):
    encoder, store, inbox = place
    return moon.main(["encoder", "watch", str(encoder), "--store", str(store), "--inbox", str(inbox), *map(str, more)])


def lines(inbox):
    path = inbox / "failed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_new_item_is_found_by_its_id_with_its_own_vector(place, dual, tmp_path):
    _, root, inbox = place
    store = Store(root)
    old = np.array(store.current.codes)
    drop(inbox, "a.jsonl", [item(100), item(101, "blue watch")])
    drop(inbox, "b.parquet", [item(102)])
    assert watch(place, "--once", "--json", tmp_path / "f.json") == 0
    assert store.refresh()
    version = store.current
    rows = ItemRows(version).find(pl.Series([102, 100, 101, 5]))
    assert sorted(rows.tolist()) == [5, ITEMS, ITEMS + 1, ITEMS + 2] and rows[3] == 5
    want = dual(dual.prepare([Content("blue watch", picture(101))])).detach().numpy()[0]
    got = version.vectors(rows[2:3])[0][0]
    np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=2e-3)
    assert np.array_equal(version.codes[:ITEMS], old)
    assert {p.name for p in (inbox / "done").iterdir()} == {"a.jsonl", "b.parquet"} and not lines(inbox)
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["embedded"] == 3 and 0 < found["latency_seconds"]["p100"] < 60


def test_bad_rows_are_told_and_the_rest_goes_on(place):
    _, root, inbox = place
    (inbox / "photos" / "bad.png").write_bytes(b"")
    rows = [
        item(200),
        "{not json",
        {"title": "no id"},
        {"item_id": "text", "title": "x"},
        {"item_id": 201, "title": " ", "image": "photos/bad.png"},
        {"item_id": 202, "title": "red shirt", "image": "photos/none.png"},
        {"item_id": 203, "title": "red " * 2500, "image": "../../etc/passwd"},
        item(200),
        item(5),
    ]
    drop(inbox, "mixed.jsonl", rows)
    drop(inbox, "cut.parquet", [item(300)])
    whole = (inbox / "cut.parquet").read_bytes()
    (inbox / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (inbox / ".unfinished.jsonl").write_text('{"item_id": 900, "title": "red"}')
    assert watch(place, "--once") == 0
    ids = Store(root).current.item_ids.to_list()
    assert ids[ITEMS:] == [200, 202, 203]
    told = {(line.get("row"), line.get("field")): line for line in lines(inbox)}
    assert "not a JSON object" in told[1, "row"]["reason"] and "None is not a whole" in told[2, "item_id"]["reason"]
    assert told[4, "image"]["outcome"] == "no vector" and "is empty (0 bytes)" in told[4, "image"]["reason"]
    assert told[5, "image"]["outcome"] == "embedded without it" and "10,000" not in str(told[5, "image"])
    assert "longer than the encoder reads" in told[6, "title"]["reason"] and (6, "image") in told
    assert [p.name for p in (inbox / "failed").iterdir()] == ["cut.parquet"]
    assert (inbox / ".unfinished.jsonl").exists() and (inbox / "done" / "mixed.jsonl").exists()


def test_an_item_that_had_no_vector_gets_one_in_its_own_row(place):
    _, root, inbox = place
    before = Store(root).current
    assert not before.present[8]
    drop(inbox, "a.jsonl", [item(8), item(400)])
    assert watch(place, "--once") == 0
    after = Store(root).current
    assert after.present.all() and after.item_ids.to_list() == [*range(ITEMS), 400]
    assert np.array_equal(np.delete(after.codes[:ITEMS], 8, 0), np.delete(before.codes, 8, 0))
    assert (before.folder / "codes.bin").samefile(after.folder / "codes.bin")  # nothing was copied
    assert after.meta["content"] == "title+image"


def test_killed_between_publishing_and_putting_away_nothing_is_lost_or_doubled(place, monkeypatch):
    encoder, root, inbox = place
    drop(inbox, "a.jsonl", [item(500), item(501)])
    watcher = Watcher(load_encoder(encoder), encoder_name(encoder_info(encoder)), root, inbox, 64)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(watcher.inbox, "put_away", killed)
    with pytest.raises(KeyboardInterrupt):
        watcher.step(print)
    assert (inbox / "a.jsonl").exists() and Store(root).current.meta["items"] == ITEMS + 2
    assert watch(place, "--once") == 0
    assert Store(root).current.item_ids.to_list()[ITEMS:] == [500, 501] and (inbox / "done" / "a.jsonl").exists()


def test_a_living_watcher_is_quick_sole_and_ends_on_sigterm(place):
    """A process of its own pays for its start (seconds), so this test is slow."""
    encoder, root, inbox = place
    words = [sys.executable, "-m", "moon", "encoder", "watch", encoder, "--store", root, "--inbox", inbox]
    process = subprocess.Popen([*map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("watching")
    try:
        store, waited = Store(root), []
        for n in range(600, 605):
            drop(inbox, f"{n}.jsonl", [item(n)])
            started = time.monotonic()
            while not (store.refresh() and n in store.current.item_ids):
                assert time.monotonic() - started < 30
                time.sleep(0.01)
            waited.append(time.monotonic() - started)
        assert np.median(waited) < 5
        assert watch(place, "--once") == 2
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert store.current.item_ids.to_list()[ITEMS:] == list(range(600, 605))


def test_another_writer_meanwhile_and_another_encoder(place, dual, tmp_path, capsys):
    encoder, root, inbox = place
    other = (tmp_path / "in2", "other")
    (other[0] / "photos").mkdir(parents=True)

    def write(folder, first):
        watcher = Watcher(load_encoder(encoder), encoder_name(encoder_info(encoder)), root, folder, 1)
        for n in range(first, first + 6):
            drop(folder, f"{n}.jsonl", [item(n)])
            watcher.step(lambda line: None)

    threads = [threading.Thread(target=write, args=args) for args in ((inbox, 700), (other[0], 800))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Store(root).current.item_ids.to_list()[ITEMS:]) == [*range(700, 706), *range(800, 806)]
    save_encoder(dual, tmp_path / "renamed", "renamed", "initial")
    drop(inbox, "z.jsonl", [item(900)])
    capsys.readouterr()
    assert watch((tmp_path / "renamed", root, inbox), "--once") == 2
    assert "its newest version is by small-" in capsys.readouterr().err and (inbox / "z.jsonl").exists()
