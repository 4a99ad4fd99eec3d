"""fashion_products and movielens_posters: catalogue columns and images against the raw tables, one-line errors."""

from pathlib import Path

import polars as pl
import pytest

import moon
from data.dataset import Dataset
from data.images import load_image, open_images
from data.sources.fashion_products import ATTRIBUTES


def prepare(source: str, root: Path, out: Path) -> int:
    return moon.main(["prepare", source, "--root", str(root), "--out", str(out)])


def test_fashion_is_a_catalogue_with_an_image_an_item(shared, tmp_path):
    root = shared / "datasets" / "fashion_products"
    assert prepare("fashion_products", root, tmp_path / "out") == 0
    dataset = Dataset(tmp_path / "out")
    items, raw = dataset.items().collect(), pl.read_parquet(root / "items.parquet").sort("item_id")
    assert items.select("item_id", "title", *ATTRIBUTES).equals(raw.select("item_id", "title", *ATTRIBUTES))
    assert (items["category"] == raw["article_type"]).all()
    images = open_images(dataset.meta["images"][0])
    assert all(key in images for key in items["image_key"])
    assert load_image(images, items["image_key"][77]).size == (128, 128)
    counts = dataset.meta["counts"]
    assert counts["items"] == 9_583 and not any(n for name, n in counts.items() if name != "items")
    assert dataset.behaviors().offsets.tolist() == [0] and len(dataset.behaviors().item) == 0


def test_movielens_catalogue_posters_and_behaviours(shared, tmp_path):
    root = shared / "datasets" / "movielens_posters"
    assert prepare("movielens_posters", root, tmp_path / "out") == 0
    dataset = Dataset(tmp_path / "out")
    items, raw = dataset.items().collect(), pl.read_parquet(root / "items.parquet").sort("item_id")
    assert items.select("item_id", "title", "genres", "year").equals(raw.select("item_id", "title", "genres", "year"))
    posters, queries = (open_images(spec) for spec in dataset.meta["images"])
    assert [spec["role"] for spec in dataset.meta["images"]] == ["poster", "query"]
    with_poster = items["image_key"].drop_nulls()
    assert len(with_poster) == 13_067 and all(key in posters for key in with_poster)
    assert len(list(queries.keys())) == 2_923
    ratings = pl.read_parquet(root / "ratings.parquet").sort("user_id", "ts", "item_id")
    behaviors = dataset.behaviors()
    assert (behaviors.side["rating"] == ratings["rating"].to_numpy()).all()
    assert (behaviors.action == (ratings["rating"] >= 4).to_numpy()).all()
    assert (items["item_id"].to_numpy()[behaviors.item] == ratings["item_id"].to_numpy()).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fashion_products", "items.parquet: no such file"),
        ("movielens_posters", "items.parquet: no such file"),
        ("movielens_poster", "source 'movielens_poster' is unknown; sources: movielens_posters, "),
    ],
)
def test_an_empty_root_and_an_unknown_source_are_one_line(tmp_path, capsys, source, message):
    (tmp_path / "raw").mkdir()
    assert prepare(source, tmp_path / "raw", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert prepare(source, tmp_path / "none", tmp_path / "out") == 2
