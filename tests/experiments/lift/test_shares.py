"""The study's vectors come from pixels alone, and its means are those of its worlds."""

import numpy as np
import pytest

from data.config import load_config
from data.dataset import Dataset
from experiments.lift.shares import CONFIGS, DIM, SharesConfig, gather, pixel_store, tables
from features.store import Store

STUDY = CONFIGS.parent / "studies" / "lift.yaml"


def facts(lift: float, new: float) -> dict:
    interval = {"value": lift, "low": lift - 0.01, "high": lift + 0.01}
    slices = {"all": {"true_ctr": {"lift": interval}}, "new_items": {"true_ctr": {"lift": {"value": new}}}}
    return {"slices": slices, "metrics": {"true_ctr": {"lift": interval, "headroom": {"value": lift / 2}}}}


def test_vectors_are_measured_once_and_tell_the_style(world, market_root, tmp_path):
    dataset = Dataset(market_root / "data")
    pixel_store(dataset, tmp_path / "store")
    version = Store(tmp_path / "store").current
    assert version.meta["encoder"] == "pixel-measures" and version.meta["coverage"] == 1 and version.meta["dim"] == DIM
    vectors, _ = version.vectors(np.arange(len(world.items)))
    wide = np.column_stack([vectors, np.ones(len(vectors))])
    light = world.items.vector[:, 2]
    residual = light - wide @ np.linalg.lstsq(wide, light, rcond=None)[0]
    assert 1 - residual.var() / light.var() > 0.15  # chance: DIM of 520 = .03; the photos have 16 pixels a side
    pixel_store(dataset, tmp_path / "store")
    assert Store(tmp_path / "store").current.number == version.number


def test_figures_are_means_over_worlds():
    config = SharesConfig(shares=(0.0, 0.5), seeds=(0, 1, 2))  # pyright: ignore[reportCallIssue]
    lifts = {(0.0, s): facts(0.01 * (s - 1), 0.0) for s in range(3)} | {(0.5, s): facts(0.1, 0.2) for s in range(3)}
    worlds = {key: {"arms": {"simtier": one, "cube": one}} for key, one in lifts.items()}
    found = gather(config, worlds)
    none, half = found["arms"]["cube"]
    assert none["all"]["value"] == pytest.approx(0)
    assert none["all"]["high"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-3)
    assert [half["all"][k] for k in ("value", "low")] == pytest.approx([0.1, 0.1])
    assert half["new_items"]["value"] == pytest.approx(0.2)
    assert half["headroom"]["value"] == pytest.approx(0.05) and len(half["worlds"]) == 3
    text = tables(found)[1].markdown()
    assert "+10.0%" in text and "| 0.5 |" in text
    assert load_config(STUDY, SharesConfig).shares[0] == 0
