"""Fits of a linear layer on columns that depend on each other, or are of different scales."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from varpro_nn.output import linear_fits
from varpro_nn.output.feature_store import standardise_columns
from varpro_nn.output.linear_fits import LinearFits


def fits_of(name, Phi, labels, weights=None):
    return LinearFits(name, Phi, labels, 3, None, weights)


@pytest.mark.parametrize("penalty", [0.0, 1e-12, 1.0])
@pytest.mark.parametrize("n_copies", [1, 60])
def test_a_ridge_fit_sees_columns_of_any_scale(n_copies, penalty, rng):
    """Noise of the largest columns is none of the smallest; copies share their weight."""
    X = rng.standard_normal((300, 5))
    labels = np.argmax(X[:, :3] + 0.1 * rng.standard_normal((300, 3)), axis=1)
    scales = 10.0 ** np.array([-3, 3, 0, -2, 2])
    Phi = np.tile(X * scales, n_copies).astype(np.float32)
    Phi -= Phi.mean(axis=0)
    A, _ = fits_of("ridge", Phi, labels).fit(slice(None), penalty * 1e-9, None, tolerance=0)
    X = np.column_stack([X, np.ones(300)])
    expected = X @ np.linalg.lstsq(X, np.eye(3)[labels])[0]
    assert_allclose(Phi.astype(np.float64) @ A[:-1] + A[-1], expected, atol=2e-3)


@pytest.mark.parametrize("name", ["softmax", "hinge"])
def test_a_convex_fit_starts_from_some_of_its_rows(name, rng, monkeypatch):
    """Two a column and some more; none of those that are held out."""
    monkeypatch.setattr(linear_fits, "_FEWEST", 20)
    Phi = rng.standard_normal((300, 15)).astype(np.float32)
    labels = np.argmax(Phi[:, :3], axis=1)
    asked = []
    fits = fits_of(name, Phi, labels)
    ridge = fits._ridge
    monkeypatch.setattr(
        fits, "_ridge", lambda rows, *args, **kw: asked.append(rows) or ridge(rows, *args, **kw)
    )
    for rows, some in ((slice(50, None), slice(50, 80)), (slice(280, None), slice(280, 300))):
        A, fitted = fits.fit(rows, 1.0, None, tolerance=1e-6)
        assert asked.pop() == some
        assert fitted.converged
        other, _ = fits.fit(rows, 1.0, np.zeros_like(A), tolerance=1e-6)
        assert_allclose(A[:-1], other[:-1], atol=0.02)


@pytest.mark.parametrize("name", ["ridge", "softmax", "hinge"])
@pytest.mark.parametrize("penalty", [1e-12, 1e12])
@pytest.mark.parametrize("case", ["one direction", "zeros", "one class", "one row", "one weight"])
def test_columns_that_say_little_are_no_fault(case, penalty, name, rng):
    """As many as 150 columns of one direction: their Gram matrix is indefinite but for a floor."""
    Phi = (rng.standard_normal((250, 1)) * rng.standard_normal(150)).astype(np.float32)
    labels, weights = rng.integers(3, size=250), None
    if case == "zeros":
        Phi[:] = 0
    elif case == "one class":
        labels[:] = 2
    elif case == "one row":
        Phi, labels = Phi[:1], labels[:1]
    elif case == "one weight":
        weights = np.zeros(250)
        weights[7] = 2.0
    A, _ = fits_of(name, Phi, labels, weights).fit(slice(None), penalty, None, tolerance=1e-3)
    assert np.isfinite(A).all()
    outputs = Phi[-1] @ A[:-1] + A[-1]
    assert np.abs(outputs).max() < 1e3


@pytest.mark.parametrize("name", ["ridge", "softmax", "hinge"])
def test_rows_that_weigh_nothing_give_no_outputs(name, rng):
    """All of the weight may be on rows that were put aside."""
    Phi = rng.standard_normal((60, 4)).astype(np.float32)
    weights = np.where(np.arange(60) < 10, 1.0, 0.0)
    fits = fits_of(name, Phi, rng.integers(3, size=60), weights)
    A, _ = fits.fit(slice(10, None), 1.0, None, tolerance=1e-3)
    assert_allclose(A, 0, atol=0)


def test_the_deviation_of_many_rows_is_a_double_sum(rng):
    """In single precision, one row after the other, it has lost three digits."""
    Phi = rng.random((300_000, 2)).astype(np.float32) * np.float32([1, 1e-4])
    exact = Phi.std(axis=0, dtype=np.float64)
    _, deviation = standardise_columns(Phi, scale=True)
    assert_allclose(deviation, exact, rtol=1e-6)
