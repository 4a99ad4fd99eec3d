"""A run exported: the same scores in every format, a gate that refuses, versions, sizes, the card."""

import json
import os

import numpy as np
import pytest
import torch

import moon
from data.dataset import Dataset
from data.errors import InputError
from features.ranks import process_group
from ranker.build import load_ranker
from ranker.exporting import export as exporting
from ranker.exporting import parity
from ranker.exporting.export import Choice, export
from ranker.run_folder import RunFolder
from ranker.serving.model import Model, probability
from ranker.serving.package import current_version, open_package, point
from ranker.simtier import edges_moved
from ranker.train import train
from tests.ranker.exporting.recipes import RECIPES, recipe
from tests.ranker.exporting.test_dense_part import batches

QUICK = ("program",)


def exported_again(exported, out, **choice):
    with process_group() as ranks:
        return export(RunFolder(exported.run), Dataset(exported.data), out, ranks, Choice(programs=QUICK, **choice))


def largest_differences(run, data, package, runtime):
    """Of click probabilities against the trained model's, by shape of batch."""
    model = Model(package, runtime)
    with process_group() as ranks:
        trained, samples = load_ranker(RunFolder(run), Dataset(data), ranks)
        found = {}
        for shape, batch in batches(samples).items():
            with torch.no_grad():
                eager = probability(trained(batch).numpy())
            found[shape] = np.abs(probability(model.logits(batch, model.pinned())) - eager).max()
        return found


@pytest.mark.parametrize("runtime", ["aoti", "program", "onnx"])
def test_every_format_gives_the_trained_model_s_scores_on_every_shape(exported, runtime):
    found = largest_differences(exported.run, exported.data, exported.package, runtime)
    assert found and max(found.values()) < 1e-6, found


def test_a_format_that_the_operators_do_not_allow_is_left_out_with_its_reason(small, tmp_path, capsys):
    run = tmp_path / "run"
    with process_group() as ranks:
        searching = recipe(*RECIPES["category-search"])
        train(searching, Dataset(small), run, ranks, resume=False)
        card, _ = export(RunFolder(run), Dataset(small), tmp_path / "out", ranks, Choice(programs=("program", "onnx")))
    assert list(card["left_out"]) == ["onnx"] and "translating node" in card["left_out"]["onnx"]
    with pytest.raises(InputError, match="no such format in this package; it has: program"):
        Model(tmp_path / "out", "onnx")
    assert moon.main(["inspect", str(tmp_path / "out")]) == 0
    assert "onnx is left out: " in capsys.readouterr().out


def test_a_package_with_other_scores_is_refused_and_not_published(exported, tmp_path, monkeypatch):
    def damaged(model, folder, dtype):
        shapes = write_tables(model, folder, dtype)
        table = np.load(folder / "item.npy", mmap_mode="r+")
        table += 0.01
        table.flush()
        return shapes

    write_tables = exporting.write_tables
    monkeypatch.setattr(exporting, "write_tables", damaged)
    with pytest.raises(InputError, match=r"not exported: .* program on cpu: 187 rows, largest difference .* REFUSED"):
        exported_again(exported, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_cosine_that_rounding_may_put_in_either_tier_is_no_reason_to_refuse(exported, tmp_path, monkeypatch):
    """The trained model's tiers are moved by as much as cosines may be rounded, made large, so that rows change."""
    eager_scores = parity.eager_scores

    def rounded(*recorded):
        with edges_moved(0.02):
            return eager_scores(*recorded)

    monkeypatch.setattr(parity, "eager_scores", rounded)
    with pytest.raises(InputError, match="REFUSED"):
        exported_again(exported, tmp_path / "out")
    monkeypatch.setattr(parity, "ROUNDING", 0.02)
    card, _ = exported_again(exported, tmp_path / "out")
    assert card["parity"][0]["on_edges"] > 0 and card["parity"][0]["largest"] < 1e-6


def test_int8_takes_a_quarter_and_two_bytes_a_row_and_keeps_the_auc(exported, tmp_path):
    card, folder = exported_again(exported, tmp_path / "out", tables="int8")
    rows = sum(t["rows"] for t in card["tables"].values())
    assert card["memory"]["tables_bytes"] == card["memory"]["tables_bytes_float32"] / 4 + 2 * rows
    (found,) = card["parity"]
    assert found["rule"] == "difference of AUC" and found["limit"] == 1e-3
    assert abs(found["auc_package"] - found["auc_eager"]) <= 1e-3 and 0 < found["largest"] < 0.01
    assert open_package(folder).tables == "int8"


def test_float16_takes_half(exported, tmp_path):
    card, _ = exported_again(exported, tmp_path / "out", tables="float16")
    assert card["memory"]["tables_bytes"] * 2 == card["memory"]["tables_bytes_float32"]
    assert card["parity"][0]["largest"] < 1e-4


def test_each_export_is_a_version_and_rolling_back_is_one_link(exported, tmp_path):
    out = tmp_path / "out"
    _, first = exported_again(exported, out)
    _, second = exported_again(exported, out, tables="float16")
    assert (first.name, second.name) == ("v00000001", "v00000002")
    assert current_version(out) == second and Model(out, "program").version == "2"
    point(out, first.name)
    assert Model(out, "program").version == "1"
    assert sorted(p.name for p in out.iterdir()) == ["current", "v00000001", "v00000002"]
    assert open_package(first).hash != open_package(second).hash


def test_the_card_says_what_it_is_made_of(exported):
    folder = current_version(exported.package)
    card = json.loads((folder / "card.json").read_text())
    assert card["hash"] == open_package(folder).hash and len(card["hash"]) == 64
    assert card["data"]["fingerprint"] == Dataset(exported.data).fingerprint
    assert {"valid", "test"} == card["metrics"].keys() and card["metrics"]["test"]["slices"]["cold_items"]["rows"]
    assert card["provenance"]["stores"]["image"]["encoder"] == "random"
    assert [p["runtime"] for p in card["parity"]] == ["aoti on cpu", "program on cpu", "onnx on cpu"]
    assert all(p["passed"] and p["largest"] < 1e-5 for p in card["parity"])
    assert card["served_as_requests"]["rows"] == 187 and card["served_as_requests"]["largest_difference"] < 1e-6
    text = (folder / "card.md").read_text()
    assert card["hash"] in text and "### Slices of test" in text and "`history.rating`" in text


def test_a_damaged_package_is_named(exported, tmp_path):
    _, folder = exported_again(exported, tmp_path / "out")
    table = folder / "tables" / "item.npy"
    whole = table.read_bytes()
    table.write_bytes(whole[:-8])
    with pytest.raises(InputError, match=r"tables/item\.npy: has [\d,]+ bytes, must have [\d,]+; export again"):
        Model(tmp_path / "out", "program")
    os.remove(table)
    with pytest.raises(InputError, match=r"tables/item\.npy: is missing"):
        Model(tmp_path / "out", "program")


def test_mistakes_are_one_line(exported, tmp_path, capsys):
    def line(*words):
        capsys.readouterr()
        assert moon.main([str(w) for w in words]) == 2
        (found,) = capsys.readouterr().err.strip().splitlines()
        return found

    assert "no run (meta.json is missing)" in line("export", tmp_path, "--out", tmp_path / "x")
    assert "must be some of aoti,program,onnx" in line("export", exported.run, "--out", "x", "--programs", "tvm")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "file").touch()
    assert "holds something else" in line("export", exported.run, "--out", tmp_path / "busy", "--programs", "program")
    with pytest.raises(InputError, match=r"dense-cuda\.pt2: no such format in this package; it has: program"):
        Model(exported.package, "aoti", torch.device("cuda"))
    with pytest.raises(InputError, match="no exported package"):
        Model(tmp_path)
