"""Exchange rates and scaling laws find what was put in, say how sure they are, and do not invent what is not there."""

import numpy as np
import pytest

from experiments.studies.exchange_fit import exchange_rate, sign
from experiments.studies.exchange_rate import rates
from experiments.studies.scaling_fit import at, power_law, scaling_law


def test_an_exchange_rate_is_found_with_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    metric = np.linspace(0.1, 0.6, 8)
    gain = 0.02 * metric[:, None] + rng.normal(0, 5e-4, (8, 3))
    found = exchange_rate(metric, gain)
    assert found["low"] < 2e-4 < found["high"] and found["low"] > 0
    assert found["slope"] == pytest.approx(np.polyfit(metric, gain.mean(1), 1)[0] / 100)
    assert found["r2"] > 0.9 and found["spearman"] > 0.9 and found["p"] < 0.02
    assert found["leave_one_out"][0] <= found["slope"] <= found["leave_one_out"][1]
    assert sign(found["low"], found["high"]) == "positive"


def test_no_rate_is_established_where_there_is_none():
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = exchange_rate(rng.random(8), rng.normal(0, 1e-3, (8, 3)))
        covered += found["low"] <= 0 <= found["high"]
    assert covered >= 15


def test_a_power_law_is_recovered_and_foretells_its_largest_point():
    x = np.array([1.0, 2, 4, 8, 16, 32])
    a, b, c = power_law(x, 0.8 - 0.3 * x**-0.5)
    assert (a, b, c) == pytest.approx((0.8, 0.3, 0.5), abs=0.01)
    rng = np.random.default_rng(1)
    y = (0.8 - 0.3 * x**-0.5)[:, None] + rng.normal(0, 2e-3, (6, 3))
    found = scaling_law(x, y)
    assert abs(found["extrapolation"]["error"]) < 0.01 and found["extrapolation"]["measured"] == y[-1].mean()
    assert found["rise"]["low"] > 0 and found["r2"] > 0.99
    curve = found["curve"]
    inside = [low <= value <= high for low, value, high in zip(curve["low"], curve["y"], curve["high"], strict=True)]
    assert np.mean(inside) > 0.9
    assert at((a, b, c), np.array([100.0]))[0] < a


def test_a_power_law_of_a_million_weights_is_recovered():
    x = np.array([3e4, 7e4, 2e5, 5e5, 2e6])
    law = power_law(x, 0.43 - 0.02 * (x / x[0]) ** -2.5)
    assert law[0] == pytest.approx(0.43, abs=1e-4) and law[2] == pytest.approx(2.5, abs=0.1)
    assert at(law, x) == pytest.approx(0.43 - 0.02 * (x / x[0]) ** -2.5, abs=2e-4)


def test_what_does_not_grow_has_no_law():
    rng = np.random.default_rng(2)
    found = scaling_law(np.array([1.0, 2, 4, 8]), rng.normal(0.7, 1e-3, (4, 3)))
    assert list(found) == ["rise"] and found["rise"]["low"] < 0 < found["rise"]["high"]


def test_a_category_with_two_values_of_a_metric_has_no_rate():
    versions = []
    for place in range(5):
        by_category = {"few searches": float(place > 2), "many": place / 10}
        gains = [0.01 * place, 0.011 * place, 0.009 * place]
        versions.append({
            "shuffled": False,
            "metrics": {"category": {"value": place / 10, "categories": by_category}},
            "gains": {"auc": gains, "gauc": gains},
            "categories": dict.fromkeys(by_category, gains),
        })  # fmt: skip
    found = rates("category", versions)
    assert found is not None
    assert list(found["categories"]) == ["many"] and found["categories"]["many"]["slope"] == pytest.approx(1e-3)
