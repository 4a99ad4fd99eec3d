"""Bulk embedding: vectors of every item, odd items told one by one, the same bytes after kill -9, several processes."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import moon
from data.dataset import Dataset
from data.errors import InputError
from features.store import Store
from moon_encoder.checkpoint import build_encoder, save_encoder
from moon_encoder.content import Content
from moon_encoder.embed_job import plan
from moon_encoder.embed_job import run as embed_all
from moon_encoder.embed_parts import Job
from moon_encoder.embedding import embed
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.losses import unit
from moon_encoder.shown import Shown, Views
from tests.moon_encoder.conftest import dual_config, picture
from tests.moon_encoder.posters import ITEMS, encoded, prepare_posters, title

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepare_posters(tmp_path_factory.mktemp("posters"))


@pytest.fixture
def encoder(dual, tmp_path) -> Path:
    save_encoder(dual, tmp_path / "encoder", "small", "initial")
    return tmp_path / "encoder"


def run(*words: object) -> int:
    return moon.main(["encoder", "embed", *map(str, words)])


def fails(capsys, *words: object) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@torch.inference_mode()
def expected(dual, contents, dim=16):
    return unit(torch.cat([dual(dual.prepare([c])) for c in contents]), dim).numpy()


@pytest.mark.parametrize(
    ("content", "show"),
    [
        ("title+image", lambda i: Content(title(i), picture(i))),
        ("image", lambda i: Content(image=picture(i))),
        ("title", lambda i: Content(title(i))),
    ],
)
def test_every_item_gets_the_encoder_s_vector(data, encoder, dual, tmp_path, content, show, capsys):
    assert run(encoder, "--data", data, "--store", tmp_path / "s", "--content", content, "--batch", 7) == 0
    version = Store(tmp_path / "s").current
    out, mask = version.vectors(np.arange(ITEMS))
    np.testing.assert_allclose(out, expected(dual, [show(i) for i in range(ITEMS)]), atol=1e-3)
    assert mask.all() and version.item_ids.to_list() == list(range(ITEMS))
    assert version.meta["content"] == content and version.meta["matryoshka"] == [4, 8]
    assert version.meta["dataset_fingerprint"] == Dataset(data).fingerprint
    assert version.meta["encoder"].startswith("small-") and Path(version.meta["encoder_path"]) == encoder
    assert "coverage: 40 of 40 items; 100.0%" in capsys.readouterr().out
    assert not (tmp_path / "s" / ".embedding").exists()


def test_a_prefix_in_int8(data, encoder, dual, tmp_path):
    words = [encoder, "--data", data, "--store", tmp_path / "s", "--dtype", "int8", "--dim", 8]
    assert run(*words, "--json", tmp_path / "f.json") == 0
    version, found = Store(tmp_path / "s").current, json.loads((tmp_path / "f.json").read_text())
    assert version.codes.dtype == np.int8 and version.meta["dim"] == 8 and version.meta["matryoshka"] == [4]
    want = expected(dual, [Content(title(i), picture(i)) for i in range(ITEMS)], 8)
    np.testing.assert_allclose(version.vectors(np.arange(ITEMS))[0], want, atol=1e-2)
    assert found["version"] == 1 and found["embedded_now"] == ITEMS and found["items_per_second"] > 0
    assert found["coverage"]["share"] == 1 and found["coverage"]["shown"] == 1 and found["problems"] == []


ODD_IMAGES = {
    "0.jpg": b"",
    "1.jpg": b"not an image at all",
    "2.jpg": encoded(picture(2).convert("CMYK"), "JPEG"),
    "3.jpg": encoded(Image.merge("RGBA", [*picture(3).split(), Image.new("L", (40, 56), 128)])),
    "4.jpg": encoded(Image.fromarray(np.full((20, 20), 50_000, np.uint16))),
    "5.jpg": encoded(picture(5), "GIF", save_all=True, append_images=[picture(6)]),
    "6.jpg": None,
    "8.jpg": b"",
}
ODD_TITLES = {7: "", 8: None, 9: "red " * 2500, 10: "   "}


@pytest.mark.parametrize("backbone", ["dual", "mllm"])
def test_odd_items_are_told_one_by_one_and_the_rest_goes_on(backbone, request, tmp_path, capsys):
    model = request.getfixturevalue(backbone)
    data = prepare_posters(tmp_path, files=ODD_IMAGES, titles=ODD_TITLES)
    save_encoder(model, tmp_path / "encoder", "small", "initial")
    assert run(tmp_path / "encoder", "--data", data, "--store", tmp_path / "s", "--batch", 16) == 0
    version = Store(tmp_path / "s").current
    table = pl.read_parquet(version.folder / "problems.parquet")
    told = {(item, field): (reason, outcome) for item, _, field, reason, outcome in table.iter_rows()}
    none, without, noted = "no vector", "embedded without it", "embedded"
    wanted = {
        (0, "image"): ("is empty (0 bytes)", without),
        (1, "image"): ("is corrupt: cannot identify image", without),
        (2, "image"): ("CMYK converted to RGB", noted),
        (3, "image"): ("transparency laid on white", noted),
        (4, "image"): ("16 bits a channel reduced to 8", noted),
        (5, "image"): ("first of 2 frames", noted),
        (6, "image"): ("no image '6.jpg' in the dataset's image stores", without),
        (7, "title"): ("empty", without),
        (8, "image"): ("is empty (0 bytes)", none),
        (8, "title"): ("empty", none),
        (9, "title"): ("9,999 characters, longer than the encoder reads; the end was cut off", noted),
        (10, "title"): ("empty", without),
    }
    assert told.keys() == wanted.keys()
    for key, (reason, outcome) in wanted.items():
        assert reason in told[key][0] and told[key][1] == outcome, key
    assert np.flatnonzero(~version.present).tolist() == [8] and version.meta["coverage"] == pytest.approx(39 / 40)
    want = expected(model, [Content(title(0)), Content(image=picture(7)), Content(title(11), picture(11))], model.dim)
    np.testing.assert_allclose(version.vectors(np.array([0, 7, 11]))[0], want, atol=1e-3)
    out = capsys.readouterr().out
    assert "coverage: 39 of 40 items; 97.5%" in out and "  2 x title empty: embedded without it" in out
    assert "  1 x title characters, longer than the encoder reads; the end was cut off: embedded" in out


def test_pictures_that_a_cache_holds_are_not_run_through_the_frozen_part_again(dual, tmp_path, monkeypatch, capsys):
    """The vectors are the same, unreadable pictures included; what was lost on the way to RGB is not told."""
    data = prepare_posters(tmp_path, files=ODD_IMAGES, titles=ODD_TITLES)
    save_encoder(dual, tmp_path / "encoder", "small", "initial")
    words = (tmp_path / "encoder", "--data", data, "--batch", 16)
    cache = ("--cache", tmp_path / "cache")
    assert run(*words, "--store", tmp_path / "plain") == 0
    assert run(*words, "--store", tmp_path / "first", *cache) == 0
    monkeypatch.setattr(type(dual), "frozen_images", lambda self, images: pytest.fail("computed again"))
    assert run(*words, "--store", tmp_path / "second", *cache) == 0
    shown = Shown(Contents.of(Dataset(data), Catalogue()), dual, Views(), 0, tmp_path / "cache")
    shown.items(np.array([11, 12]), "image")  # post-training reads the same rows
    plain, first, second = (Store(tmp_path / name).current for name in ("plain", "first", "second"))
    rows = np.arange(ITEMS)
    np.testing.assert_allclose(first.vectors(rows)[0], plain.vectors(rows)[0], atol=2e-3)
    assert np.array_equal(second.vectors(rows)[0], first.vectors(rows)[0])
    told = [pl.read_parquet(v.folder / "problems.parquet") for v in (plain, second)]
    lost = (pl.col("field") == "image") & (pl.col("outcome") == "embedded")
    keys = ("item", "field", "outcome")
    assert told[0].filter(~lost).select(keys).equals(told[1].select(keys))
    assert told[0].filter(lost)["item"].to_list() == [2, 3, 4, 5]


def test_an_item_that_the_encoder_refuses_and_one_without_direction_do_not_spoil_their_batch(dual):
    class Picky(type(dual)):
        def prepare(self, contents):
            if any(c.text == "blue" for c in contents):
                at = [c.text for c in contents].index("blue")
                raise InputError(f"content {at}: not blue")
            return super().prepare(contents)

        def forward(self, inputs):
            out = super().forward(inputs)
            out[inputs.length == 3] *= float("nan")  # one word between its marks
            return out

    dual.__class__ = Picky
    shown = ["red shirt", "blue", "watch", "green women"]
    vectors, present, problems = embed(dual, lambda i: (Content(shown[i]), []), np.arange(4), batch=4)
    assert present.tolist() == [True, False, False, True] and np.isfinite(vectors).all()
    assert [(p.row, p.field, p.reason, p.outcome) for p in problems] == [
        (1, "content", "not blue", "no vector"),
        (2, "vector", "not finite, or zero", "no vector"),
    ]


def job_of(encoder, data, **more):
    job = plan(encoder, Dataset(data), None, Catalogue(), None, "float16", 4)  # pyright: ignore[reportCallIssue]
    return replace(job, part=8, **more)


def test_two_processes_share_the_parts(data, encoder, tmp_path):
    """A process of its own pays for its start (seconds), so this test is slow."""
    stores = []
    for name, processes in (("one", 1), ("two", 2)):
        embed_all(job_of(encoder, data), tmp_path / name, processes, resume=False)
        stores.append(Store(tmp_path / name).current)
    np.testing.assert_allclose(stores[1].codes, stores[0].codes, atol=2e-3)
    assert stores[1].present.all()


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from moon_encoder import embed_job, embed_parts
from tests.moon_encoder.test_embed import job_of

encoder, data, store = map(Path, sys.argv[1:4])
done = []

def stop(self, number, progress, embed=embed_parts.Worker.embed):
    if number == 3:
        embed_parts.np.savez = lambda part, **arrays: (part.write_bytes(b"half"), os.kill(os.getpid(), 9))
    embed(self, number, progress)

embed_parts.Worker.embed = stop
embed_job.run(job_of(encoder, data), store, 1, resume=False)
"""


def test_kill_9_loses_a_part_at_most_and_the_resumed_store_has_the_same_bytes(data, encoder, tmp_path):
    """A process of its own pays for its start (seconds), so this test is slow."""
    killed = subprocess.run([sys.executable, "-c", KILLED, encoder, data, tmp_path / "s"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    parts = sorted((tmp_path / "s" / ".embedding").glob("part-*"))
    assert len(parts) == 3 and not list((tmp_path / "s").glob("v*"))
    times = [part.stat().st_mtime_ns for part in parts]
    with pytest.raises(InputError, match="holds 3 parts of this embedding; --resume goes on"):
        embed_all(job_of(encoder, data), tmp_path / "s", 1, resume=False)
    with pytest.raises(InputError, match="another content 'title\\+image' was cut off here"):
        embed_all(job_of(encoder, data, content="image"), tmp_path / "s", 1, resume=True)
    assert [part.stat().st_mtime_ns for part in parts] == times
    _, figures = embed_all(job_of(encoder, data), tmp_path / "s", 1, resume=True)
    embed_all(job_of(encoder, data), tmp_path / "whole", 1, resume=False)
    resumed, whole = (Store(tmp_path / name).current for name in ("s", "whole"))
    assert figures["embedded_now"] == ITEMS - 24 and resumed.meta["fingerprint"] == whole.meta["fingerprint"]
    for name in ("codes.bin", "scale.bin", "present.bin", "ids.txt", "problems.parquet"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_bad_input_in_a_process_is_the_command_s(data, encoder, tmp_path):
    """A process of its own pays for its start (seconds), so this test is slow."""
    (encoder / "model.safetensors").write_bytes(b"gone")
    job = Job(str(encoder), "x", str(data), "y", "image", {}, 16, "float16", 4, ITEMS)
    with pytest.raises(InputError, match="damaged, or of another model"):
        embed_all(job, tmp_path / "s", 2, resume=False)
    assert (tmp_path / "s" / ".embedding").is_dir()


def test_what_is_asked_for_wrongly_is_one_line(data, encoder, towers, tmp_path, capsys):
    store = tmp_path / "s"
    words = [encoder, "--data", data, "--store", store]
    assert "--dim 5: the encoder has prefixes of 4, 8, 16" in fails(capsys, *words, "--dim", 5)
    assert "no encoder (encoder.json is missing)" in fails(capsys, tmp_path, *words[1:])
    assert "no prepared dataset" in fails(capsys, encoder, "--data", tmp_path, "--store", store)
    blind = build_encoder(dual_config(towers).model_copy(update={"vision": None}))
    save_encoder(blind, tmp_path / "blind", "blind", "initial")
    told = fails(capsys, tmp_path / "blind", *words[1:], "--content", "image")
    assert "content 'image': this encoder reads text only" in told
    assert not store.exists()


def test_the_encoder_reads_what_it_can_and_nothing_is_published_of_nothing(data, towers, tmp_path, capsys):
    sighted = build_encoder(dual_config(towers).model_copy(update={"text": None}))
    save_encoder(sighted, tmp_path / "sighted", "sighted", "initial")
    assert run(tmp_path / "sighted", "--data", data, "--store", tmp_path / "s") == 0
    assert Store(tmp_path / "s").current.meta["content"] == "image"
    bare = prepare_posters(tmp_path / "bare", files={f"{i}.jpg": b"" for i in range(ITEMS)})
    told = fails(capsys, tmp_path / "sighted", "--data", bare, "--store", tmp_path / "t")
    assert "no item got a vector; item 0: " in told and "is empty (0 bytes)" in told
    assert not list((tmp_path / "t").glob("v*"))
