"""Rows that stand for all in a preconditioner; tests of convex fits cover the factors."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.linalg.preconditioner import drawn_by_weight


def test_rows_are_drawn_by_weight(rng):
    weights = rng.lognormal(0.0, 3.0, 1000)
    rows, drawn = drawn_by_weight(weights, 100)
    least, most = 0.0, 1e9
    for _ in range(200):  # p = min(1, c w) sums to 100
        c = (least + most) / 2
        least, most = (c, most) if np.minimum(1, c * weights).sum() < 100 else (least, c)
    p = np.minimum(1, c * weights)
    assert abs(len(rows) - 100) <= 1
    assert len(set(rows)) == len(rows)
    assert set(np.flatnonzero(p > 1 - 1e-9)) <= set(rows)
    assert_allclose(drawn, weights[rows] / p[rows])
    # The number of rows drawn up to any row differs from the sum of p by less than 1.
    missed = np.cumsum(np.isin(np.arange(1000), rows)) - np.cumsum(p)
    assert np.abs(missed).max() < 1
    assert drawn.sum() == pytest.approx(weights.sum(), rel=0.02)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_few_rows_are_all_drawn_and_none_without_weight(scale):
    few = scale * np.array([3.0, 0.0, 1.0, 0.0, 0.0])
    for weights, size in ((few, 3), (few, 2), (np.zeros(5), 2), (np.zeros(0), 4)):
        rows, drawn = drawn_by_weight(weights, size)
        assert_array_equal(rows, np.flatnonzero(weights))
        assert_array_equal(drawn, weights[rows])
    rows, drawn = drawn_by_weight(few, 1)
    assert len(rows) == 1
    assert drawn.sum() == pytest.approx(few.sum())
    far_apart = np.array([1.0, 2.0, 1e-310, 3.0, 0.0, 1e-200])
    rows, drawn = drawn_by_weight(far_apart, 3)
    assert_array_equal(rows, [0, 1, 3])
    assert_array_equal(drawn, [1.0, 2.0, 3.0])
