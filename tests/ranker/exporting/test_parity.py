"""The gate holds scores against eager ones, and knows that a cosine on the edge of a tier may count on either side."""

import numpy as np
import pytest
import torch

from ranker.exporting.parity import ROUNDING, compare
from ranker.similarity import Cosines
from ranker.simtier import edges_moved, tiers

LABEL = np.array([0.0, 1.0, 0.0, 1.0])
EAGER = np.array([0.1, 0.6, 0.3, 0.8])


def moved(*by: float) -> np.ndarray:
    """Eager scores and what each differs by."""
    return EAGER + np.array(by)


def not_asked() -> list[np.ndarray]:
    raise AssertionError("there is nothing to ask for")


def test_scores_that_agree_pass_without_a_second_look():
    found = compare("aoti", LABEL, EAGER, EAGER + 1e-6, True, not_asked)
    assert found.passed and found.on_edges == 0 and found.largest == pytest.approx(1e-6) and "edge" not in found.line()


def test_a_row_may_have_the_score_that_it_has_beside_an_edge_and_no_other():
    beside = [moved(0, 0.002, 0, 0), moved(0, 0, 0.001, 0)]
    package = moved(0, 0.002, 1e-6, 0)
    found = compare("aoti", LABEL, EAGER, package, True, lambda: beside)
    assert found.passed and found.on_edges == 1 and found.largest == pytest.approx(1e-6)
    assert "4 rows (1 with a cosine on the edge of a tier)" in found.line()
    assert not compare("aoti", LABEL, EAGER, moved(0, 0.002, 0, 3e-4), True, lambda: beside).passed
    assert not compare("aoti", LABEL, EAGER, package, True, lambda: [EAGER, EAGER]).passed


def test_where_scores_may_move_the_auc_is_held_alone():
    assert compare("aoti", LABEL, EAGER, EAGER + 0.01, False, not_asked).passed
    assert not compare("aoti", LABEL, EAGER, -EAGER, False, not_asked).passed


def test_a_cosine_on_an_edge_is_on_the_other_side_when_the_edges_move():
    values = torch.tensor([0.9 - 1e-6 - 1e-7, 0.9 - 1e-6 + 1e-7, 0.95, 1.0, 1 - 2e-7], dtype=torch.float64)
    found = Cosines(values, torch.ones(5, dtype=torch.bool))
    assert tiers(found).tolist() == [18, 19, 19, 20, 20]
    with edges_moved(ROUNDING):
        assert tiers(found).tolist() == [19, 19, 19, 20, 20]
    with edges_moved(-ROUNDING):
        assert tiers(found).tolist() == [18, 18, 19, 20, 20]
    assert tiers(found).tolist() == [18, 19, 19, 20, 20]
