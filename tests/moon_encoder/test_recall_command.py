"""`moon encoder recall`: figures recounted in plain numpy for every task, baselines, stores, mistakes."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import moon
from data.dataset import Dataset
from moon_encoder.checkpoint import build_encoder, load_encoder, save_encoder
from moon_encoder.content import Content
from tests.moon_encoder.conftest import dual_config, picture
from tests.moon_encoder.posters import ITEMS, WITH_QUERY, prepare_posters, title


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepare_posters(tmp_path_factory.mktemp("posters"))


@pytest.fixture(scope="module")
def encoder(towers, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "small"
    save_encoder(build_encoder(dual_config(towers)), folder, "small", "initial")
    return folder


@pytest.fixture(scope="module")
def other(towers, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "other"
    changed = build_encoder(dual_config(towers))
    torch.manual_seed(7)
    for name, parameter in changed.named_parameters():
        if "residual" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    save_encoder(changed, folder, "other", "initial")
    return folder


def recall(tmp_path, *words: object) -> dict:
    out = tmp_path / "figures.json"
    assert moon.main(["encoder", "recall", *map(str, words), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def fails(capsys, *words: object) -> str:
    capsys.readouterr()
    assert moon.main(["encoder", "recall", *map(str, words)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@torch.inference_mode()
def unit(folder, contents):
    encoder = load_encoder(folder)
    vectors = torch.cat([encoder(encoder.prepare([c])) for c in contents]).double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow(query, gallery, right, own=None):
    """{figure: value} by sorting; ties (1e-6) put right items last."""
    ranks, inside = [], []
    for q in range(len(query)):
        cosine = gallery @ query[q]
        rows = [r for r in range(len(gallery)) if own is None or own[q] != r]
        rows.sort(key=lambda r: -(cosine[r] - 1e-6 * (r in right[q])))
        places = [at for at, r in enumerate(rows, 1) if r in right[q]]
        ranks.append(places[0])
        inside.append(sum(p <= 10 for p in places) / 10)
    ranks = np.array(ranks)
    return {"hr@1": np.mean(ranks <= 1), "hr@10": np.mean(ranks <= 10), "precision@10": np.mean(inside),
            "mrr": np.mean(1 / ranks)}  # fmt: skip


def same_title(i):
    return {j for j in range(ITEMS) if title(j) == title(i)}


def agree(task, expected):
    for name, value in expected.items():
        assert task[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert task[name]["low"] <= task[name]["value"] <= task[name]["high"]


def test_every_task_recounted(data, encoder, tmp_path, capsys):
    found = recall(tmp_path, encoder, "--data", data, "--same", "category")
    assert list(found["tasks"]) == ["image-search", "title-image", "image-title", "item-item", "next-item"]
    assert "no pairs of a query text" in found["left_out"]["text-search"] and found["part"] == "all"
    shown = {
        "image": unit(encoder, [Content(image=picture(i)) for i in range(ITEMS)]),
        "title": unit(encoder, [Content(title(i)) for i in range(ITEMS)]),
        "both": unit(encoder, [Content(title(i), picture(i)) for i in range(ITEMS)]),
    }
    tasks = found["tasks"]
    second = unit(encoder, [Content(image=picture(i, (48, 40))) for i in range(WITH_QUERY)])
    agree(tasks["image-search"], slow(second, shown["both"], [{i} for i in range(WITH_QUERY)]))
    titles = [min(same_title(i)) for i in range(20)]
    queries = unit(encoder, [Content(title(i)) for i in range(20)])
    agree(tasks["title-image"], slow(queries, shown["image"], [same_title(i) for i in titles]))
    agree(tasks["image-title"], slow(shown["image"], shown["title"], [same_title(i) for i in range(ITEMS)]))
    category = Dataset(data).items().collect()["category"].to_list()
    right = [{j for j in range(ITEMS) if category[j] == category[i] and i != j} for i in range(ITEMS)]
    named = [i for i in range(ITEMS) if category[i] is not None]
    agree(tasks["item-item"], slow(shown["both"][named], shown["both"], [right[i] for i in named], own=named))
    for task in tasks.values():
        assert task["gallery"] == ITEMS and sum(p["queries"] for p in task["categories"].values()) == task["queries"]
    out = capsys.readouterr().out
    assert "image-search: 15 queries, gallery 40 items" in out and "left out text-search" in out


def test_next_item_union_recount(data, encoder, tmp_path):
    found = recall(tmp_path, encoder, "--data", data, "--task", "next-item")["tasks"]["next-item"]
    shown = unit(encoder, [Content(title(i), picture(i)) for i in range(ITEMS)])
    cosine = shown @ shown.T
    np.fill_diagonal(cosine, -2)
    near = np.argsort(-cosine, axis=1)[:, :10]
    dataset = Dataset(data)
    behaviors, hits, sizes = dataset.behaviors(), [], []
    for row in dataset.samples("test").collect().iter_rows(named=True):
        if row["label"] == 1 and row["history_end"]:
            start = behaviors.offsets[row["user"]]
            last = behaviors.item[start + max(row["history_end"] - 50, 0) : start + row["history_end"]]
            union = set(near[last].ravel().tolist())
            hits.append(row["item"] in union)
            sizes.append(len(union) / ITEMS)
    assert found["queries"] == len(hits) > 10
    assert found["union_recall@10"]["value"] == pytest.approx(np.mean(hits))
    assert found["union_share"]["value"] == pytest.approx(np.mean(sizes))


def test_a_baseline_is_paired_and_a_subject_equals_itself(data, encoder, other, tmp_path, capsys):
    words = ["--data", data, "--task", "image-search"]
    both = recall(tmp_path, encoder, *words, "--baseline", other)["tasks"]["image-search"]
    alone = recall(tmp_path, other, *words)["tasks"]["image-search"]
    assert both["baseline"]["mrr"] == alone["mrr"]
    gain = both["difference"]["mrr"]
    assert gain["value"] == pytest.approx(both["mrr"]["value"] - alone["mrr"]["value"]) and gain["value"] != 0
    assert gain["low"] <= gain["value"] <= gain["high"] and "difference" in capsys.readouterr().out
    same = recall(tmp_path, encoder, *words, "--baseline", encoder)["tasks"]["image-search"]
    assert set(same["difference"]["hr@1"].values()) == {0}


def test_a_store_ranks_like_its_encoder(data, encoder, tmp_path, capsys):
    store = tmp_path / "s"
    embed = ["encoder", "embed", str(encoder), "--data", str(data), "--store", str(store), "--dtype", "int8"]
    assert moon.main(embed) == 0
    found = recall(tmp_path, store, "--data", data, "--baseline", encoder)
    assert set(found["tasks"]) == {"image-search", "item-item", "next-item"}
    assert "shows items as title+image, not as image" in found["left_out"]["title-image"]
    for task in found["tasks"].values():
        for figure in task["figures"]:
            assert abs(task["difference"][figure]["value"]) < 0.1
    prefix = recall(tmp_path, store, "--data", data, "--task", "image-search", "--dim", 4, "--baseline", encoder)
    assert prefix["dim"] == 4 and abs(prefix["tasks"]["image-search"]["difference"]["mrr"]["value"]) < 0.1
    assert "--dim 5: the store has prefixes of 4, 8, 16" in fails(capsys, store, "--data", data, "--dim", 5)
    save_encoder(build_encoder(load_encoder(encoder).config, seed=3), tmp_path / "moved", "moved", "initial")
    meta = next(store.glob("v*/meta.json"))
    meta.write_text(meta.read_text().replace(str(encoder), str(tmp_path / "moved")))
    told = fails(capsys, store, "--data", data, "--task", "image-search")
    assert "holds another encoder by now than small-" in told
    assert set(recall(tmp_path, store, "--data", data)["tasks"]) == {"item-item", "next-item"}


def test_pairs_of_a_file_items_of_a_file_and_products(data, encoder, tmp_path):
    pairs = pl.DataFrame({"item_id": [3, 5, 5, 9], "query_text": ["red shirt", "blue shoe", "red shirt", "watch"]})
    pairs.write_csv(tmp_path / "p.csv")
    words = [encoder, "--data", data, "--task", "text-search", "--pairs", tmp_path / "p.csv"]
    found = recall(tmp_path, *words)["tasks"]["text-search"]
    shown = unit(encoder, [Content(title(i), picture(i)) for i in range(ITEMS)])
    queries = unit(encoder, [Content("blue shoe"), Content("red shirt"), Content("watch")])
    agree(found, slow(queries, shown, [{5}, {3, 5}, {9}]))
    product = recall(tmp_path, *words, "--product", "title")["tasks"]["text-search"]
    agree(product, slow(queries, shown, [same_title(5), same_title(3) | same_title(5), same_title(9)]))
    pl.DataFrame({"item_id": [9, 30]}).write_parquet(tmp_path / "i.parquet")
    assert recall(tmp_path, *words, "--items", tmp_path / "i.parquet")["tasks"]["text-search"]["queries"] == 1
    assert recall(tmp_path, *words, "--queries", 2)["tasks"]["text-search"]["queries"] == 2


def test_held_out_items_are_the_test(data, towers, tmp_path):
    facts = {"config": {"held_out": {"key": "title", "test": 0.4, "valid": 0.2}, "catalogue": {"rich": ["year"]}}}
    save_encoder(build_encoder(dual_config(towers)), tmp_path / "e", "trained", "posttrain-a", facts)
    from moon_encoder.held_out import HeldOut

    parts = HeldOut.model_validate(facts["config"]["held_out"]).parts(Dataset(data).items().collect())
    for part, code in (("test", 2), ("valid", 1)):
        words = [] if part == "test" else ["--part", part]
        found = recall(tmp_path, tmp_path / "e", "--data", data, "--task", "image-search", *words)
        assert found["part"] == part and found["tasks"]["image-search"]["gallery"] == ITEMS
        assert found["tasks"]["image-search"]["queries"] == int((parts[:WITH_QUERY] == code).sum()) > 0


def test_mistakes_are_one_line(data, encoder, towers, tmp_path, capsys):
    words = ["--data", data]
    assert "no encoder (encoder.json is missing)" in fails(capsys, tmp_path, *words)
    colour = fails(capsys, encoder, *words, "--task", "item-item", "--same", "colour")
    assert "--same colour: the catalogue has no such column" in colour
    assert "no pairs of a query text" in fails(capsys, encoder, *words, "--task", "text-search")
    pl.DataFrame({"item_id": [3, 999], "query_text": ["a", "b"]}).write_csv(tmp_path / "p.csv")
    told = fails(capsys, encoder, *words, "--pairs", tmp_path / "p.csv", "--task", "text-search")
    assert "p.csv row 1, column 'item_id': 999 is not in the catalogue" in told
    sighted = build_encoder(dual_config(towers).model_copy(update={"text": None}))
    save_encoder(sighted, tmp_path / "sighted", "sighted", "initial")
    assert "the encoder reads no texts" in fails(capsys, tmp_path / "sighted", *words, "--task", "title-image")


def test_the_page_shows_queries_hardest_first_with_marks_and_needs_no_network(data, encoder, tmp_path):
    html = tmp_path / "gallery.html"
    found = recall(tmp_path, encoder, "--data", data, "--same", "category", "--html", html)
    page = html.read_text()
    assert "http:" not in page and "https:" not in page
    assert not any(f"@{name}@" in page for name in ("title", "facts", "links", "sections"))
    assert page.count("<section ") == len(found["tasks"]) - 1  # next-item has no queries to look at
    first = page.split('id="image-search"')[1].split("</section>")[0].split("Drawn by chance")[0]
    ranks = [int(part.split(" of ")[0].replace(",", "")) for part in first.split("right item at rank ")[1:]]
    assert len(ranks) == WITH_QUERY and ranks == sorted(ranks, reverse=True)
    hits = found["tasks"]["image-search"]["hr@1"]["value"] * WITH_QUERY
    assert first.count("data-wrong") == round(WITH_QUERY - hits) and first.count("<article") == WITH_QUERY
    assert first.count("✓") + first.count("✗") == 8 * WITH_QUERY and first.count("data:image/jpeg") == 10 * WITH_QUERY
    assert f"{found['tasks']['image-search']['mrr']['value']:.4f}" in page
