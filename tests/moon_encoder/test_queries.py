"""Queries into a store: a picture as its vector, a text as its own; what the encoder does not read has none."""

import numpy as np
import polars as pl
import torch

import moon
from data.dataset import Dataset
from data.queries import pictured, query_ids
from features.store import Store
from moon_encoder.checkpoint import build_encoder, save_encoder
from moon_encoder.content import Content
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.losses import unit
from tests.moon_encoder.conftest import dual_config


def embed(*words):
    return moon.main(["encoder", "embed", *map(str, words)])


def test_every_query_gets_the_vector_of_what_was_searched_with(market, dual, tmp_path, capsys):
    save_encoder(dual, tmp_path / "encoder", "small", "initial")
    words = tmp_path / "encoder", "--data", market, "--store", tmp_path / "s", "--of", "queries"
    assert embed(*words) == 0
    dataset, version = Dataset(market), Store(tmp_path / "s").current
    ids, picture = query_ids(dataset), pictured(dataset)
    assert version.item_ids.to_list() == ids.to_list()
    assert picture.any() and not picture.all() and version.present.all()
    assert version.meta["of"] == "queries" and version.meta["dataset_fingerprint"] is None
    contents = Contents.of(dataset, Catalogue())
    some = np.concatenate([np.flatnonzero(picture)[:3], np.flatnonzero(~picture)[:3]])
    shown = [Content(image=contents.query_image(ids[i])) if picture[i] else Content(ids[i]) for i in some.tolist()]
    with torch.inference_mode():
        expected = unit(torch.cat([dual(dual.prepare([content])) for content in shown])).numpy()
    assert np.abs(version.vectors(some)[0] - expected).max() < 2e-3
    assert f"coverage: {len(ids):,} of {len(ids):,} queries" in capsys.readouterr().out


def test_a_query_that_the_encoder_cannot_read_has_no_vector(market, towers, tmp_path):
    blind = build_encoder(dual_config(towers).model_copy(update={"vision": None}))
    save_encoder(blind, tmp_path / "encoder", "blind", "initial")
    assert embed(tmp_path / "encoder", "--data", market, "--store", tmp_path / "s", "--of", "queries") == 0
    version = Store(tmp_path / "s").current
    assert version.present.tolist() == (~pictured(Dataset(market))).tolist()
    told = pl.read_parquet(version.folder / "problems.parquet")
    assert told["reason"].unique().to_list() == ["the encoder reads text only"]


def test_a_log_without_queries_is_one_line(small, dual, tmp_path, capsys):
    save_encoder(dual, tmp_path / "encoder", "small", "initial")
    assert embed(tmp_path / "encoder", "--data", small, "--store", tmp_path / "s", "--of", "queries") == 2
    assert "its log does not say what was searched for" in capsys.readouterr().err
