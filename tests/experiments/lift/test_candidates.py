"""The expected AUC over candidates is that of its definition, and clicks drawn from the truth have it."""

import json

import numpy as np
import pytest
import yaml

from data.config import load_config
from data.errors import InputError
from experiments.lift.candidates import _expected, category_share, compared, main
from experiments.lift.config import LiftConfig
from features.store_writer import StoreWriter
from ranker.metrics import auc


def test_the_expected_auc_is_that_of_many_clicks():
    rng = np.random.default_rng(0)
    chance, score = rng.uniform(0.02, 0.6, (1, 8)), rng.normal(size=(1, 8))
    score[0, 3] = score[0, 5]
    clicks = rng.random((20_000, 8)) < chance
    won = pairs = 0.0
    for clicked in clicks:
        both = int(clicked.sum() * (~clicked).sum())
        if both:
            won, pairs = won + both * auc(clicked.astype(int), score[0]), pairs + both
    assert _expected(score, chance)[0] == pytest.approx(won / pairs, abs=0.01)
    missing = np.append(chance, [[np.nan]], 1), np.append(score, [[9.0]], 1)
    assert _expected(missing[1], missing[0]) == pytest.approx(_expected(score, chance))
    assert _expected(chance, chance)[0] > _expected(score, chance)[0]


def test_arms_are_compared_and_a_store_s_categories_measured(market_root, world, tmp_path, capsys):
    count, category = len(world.items), world.items.category
    root = tmp_path / "store"
    with StoreWriter(root, count, 3, encoder="x", dataset_fingerprint=world.dataset.fingerprint) as writer:
        noise = np.random.default_rng(0).normal(size=(count, 3))
        writer.put(np.arange(count), np.column_stack([category, noise[:, 0], 0 * category]).astype(np.float32))
        writer.publish()
    known = category.var() / (category.var() + noise[:, 0].var())
    assert category_share(root, market_root / "data") == pytest.approx(known, abs=0.03)
    run = str(market_root / "run")
    test = {"logs": str(market_root / "logs"), "data": str(market_root / "data"), "control": "one"}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test | {"arms": {"one": {"run": run}, "two": {"run": run}}}))
    assert main([str(tmp_path / "test.yaml"), "--store", str(root), "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["arms"]["one"] == found["arms"]["two"] and 0.4 < found["arms"]["one"]["candidates"] < 0.9
    assert found["differences"]["two"]["candidates"] == {"value": 0, "low": 0, "high": 0}
    assert "variance of the vectors that the category explains" in capsys.readouterr().out
    with pytest.raises(InputError, match="is no trained ranker"):
        compared(load_config(market_root / "lift.yaml", LiftConfig))
