"""Coverage recounted in plain Python."""

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.prepare import prepare
from data.source import Split
from features.coverage import coverage, text
from tests.data.toy_log import ToyLog, random_rows


def test_shares_recounted(small):
    dataset = Dataset(small)
    items = dataset.items().collect()
    present = np.random.default_rng(0).random(len(items)) < 0.8
    found = coverage(dataset, present)
    assert (found["items"], found["vectors"], found["share"]) == (80, present.sum(), present.mean())
    seen = [p for p, ts in zip(present, items["first_seen_ts"], strict=True) if ts is not None]
    assert found["in_log"] == pytest.approx(np.mean(seen))
    shown = dataset.samples("train").collect()["item"].to_list()
    assert found["shown"] == pytest.approx(np.mean([present[i] for i in shown]))
    for name, part in found["categories"].items():
        mine = [bool(p) for p, c in zip(present, items["category"], strict=True) if (c or "(none)") == name]
        assert part == {"items": len(mine), "vectors": sum(mine), "share": pytest.approx(np.mean(mine))}
    shares = [part["share"] for part in found["categories"].values()]
    assert shares == sorted(shares) and sum(p["items"] for p in found["categories"].values()) == 80
    lines = text(found, worst=2)
    assert lines[0].startswith(f"coverage: {present.sum()} of 80 items; {present.mean():.1%}, ") and len(lines) == 3


def test_a_catalogue_without_log_and_without_items_that_have_a_vector(tmp_path):
    catalogue = pl.DataFrame({"item_id": [3, 1], "title": ["c", None]})
    prepare(ToyLog(random_rows(1), Split(rule="none"), catalogue=catalogue), tmp_path / "out")
    found = coverage(Dataset(tmp_path / "out"), np.zeros(2, bool))
    assert found["share"] == 0 and found["shown"] is None and found["categories"] == {}
    assert text(found)[0].startswith("coverage: 0 of 2 items; 0.0%")
