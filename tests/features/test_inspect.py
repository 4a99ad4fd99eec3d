"""`moon inspect STORE`: geometry against plain numpy, neighbours, coverage by dataset, warnings."""

import json

import numpy as np
import polars as pl
import pytest

import moon
from data.dataset import Dataset
from features import inspect as report
from features.inspect import inspect, text
from features.store_append import append
from features.store_writer import StoreWriter


def publish(root, vectors, encoder="e", present=None, dataset=None, ids=None, **more):
    rows = np.arange(len(vectors)) if present is None else np.flatnonzero(present)
    ids = pl.Series(range(len(vectors))) if ids is None else ids
    fingerprint = dataset.fingerprint if dataset else None
    with StoreWriter(
        root, len(vectors), vectors.shape[1], encoder=encoder, item_ids=ids, dataset_fingerprint=fingerprint, **more
    ) as writer:
        writer.put(rows, vectors[rows])
        return writer.publish()


def noise(n, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_geometry_of_a_sample(tmp_path):
    vectors = noise(80) + np.eye(8)[0] * 2
    publish(tmp_path, vectors, matryoshka=(4,), facts={"content": "image"})
    found = inspect(tmp_path)
    for dim in (4, 8):
        unit = vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
        cosine = unit @ unit.T
        assert found["prefixes"][dim]["mean_cosine"] == pytest.approx(cosine[~np.eye(80, dtype=bool)].mean(), abs=1e-3)
        sigma = np.linalg.svd(unit, compute_uv=False)
        p = sigma / sigma.sum()
        rank = found["prefixes"][dim]["effective_rank"]
        assert rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-3) and 1 < rank < dim
    assert found["norm"]["max"] == pytest.approx(np.linalg.norm(vectors, axis=1).max(), rel=1e-3)
    assert found["sample"] == 80 and found["meta"]["content"] == "image" and found["warnings"] == []


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_neighbours_over_the_whole_store(tmp_path, monkeypatch, block):
    monkeypatch.setattr(report, "BLOCK", block)
    vectors, present = noise(60), np.arange(60) % 5 != 2
    publish(tmp_path, vectors, present=present, ids=pl.Series([f"sku{i}" for i in range(60)]))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = inspect(tmp_path)["neighbours"]
    assert len(found) == 5
    for item in found:
        cosine = unit @ unit[item["row"]]
        cosine[~present] = cosine[item["row"]] = -2
        want = np.argsort(-cosine)[:4]
        assert [n["row"] for n in item["nearest"]] == want.tolist()
        assert [n["item_id"] for n in item["nearest"]] == [f"sku{i}" for i in want]
        assert [n["cosine"] for n in item["nearest"]] == pytest.approx(cosine[want].tolist(), abs=1e-3)


def test_titles_and_coverage_of_the_dataset(small, tmp_path, capsys):
    dataset = Dataset(small)
    ids = dataset.items().collect()["item_id"]
    present = np.arange(80) != 3
    first = publish(tmp_path, noise(80), present=present, dataset=dataset, ids=ids)
    append(tmp_path, first, pl.Series([900]), noise(1, seed=3))
    words = ["inspect", str(tmp_path), "--data", str(small), "--json", str(tmp_path / "f.json")]
    assert moon.main(words) == 0
    out, found = capsys.readouterr().out, json.loads((tmp_path / "f.json").read_text())
    assert found["coverage"]["vectors"] == 79 and found["coverage"]["items"] == 80 and found["meta"]["items"] == 81
    assert "coverage: 79 of 80 items; 98.8%" in out and "near Film " in out and "version 2, 8 x float16" in out
    assert [v["vectors"] for v in found["versions"]] == [79, 80] and found["same_dataset"]


def test_rows_of_another_preparation_are_found_by_id(small, tmp_path):
    dataset = Dataset(small)
    ids = dataset.items().collect()["item_id"]
    publish(tmp_path, noise(40), ids=ids.reverse()[:40])
    found = inspect(tmp_path, small)
    assert found["coverage"]["vectors"] == 40 and not found["same_dataset"]
    titles = {n.get("title") for n in found["neighbours"]}
    assert titles == {f"Film {79 - n['row']}" for n in found["neighbours"]}
    assert "rows are found by item id" in "\n".join(found["warnings"])


def test_warnings(tmp_path):
    same = np.ones((50, 32), np.float32) + 0.01 * noise(50, 32)
    publish(tmp_path, same, "a")
    publish(tmp_path, same, "b", present=np.arange(50) < 20)
    found = inspect(tmp_path)
    told = "\n".join(found["warnings"])
    for part in ("mean pairwise cosine 1.000: collapsed", "effective rank 1.", "60.0% of the items have no vector"):
        assert part in told
    assert "the versions are of different encoders" in told and "  warning: mean pairwise" in text(found)


def test_stores_with_little_or_nothing_in_them(tmp_path, capsys):
    for n in (0, 1):
        publish(tmp_path, noise(n), ids=pl.Series("item_id", range(n), dtype=pl.Int64))
        found = inspect(tmp_path)
        assert found["sample"] == n and found["prefixes"] == {} and text(found)
        assert all(item["nearest"] == [] for item in found["neighbours"])
    assert moon.main(["inspect", str(tmp_path), "--data", str(tmp_path / "no")]) == 2
    assert "no prepared dataset" in capsys.readouterr().err
