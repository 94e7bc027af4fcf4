"""Regression on images."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import cross_val_score

from varpro_nn import VarProFeatures, VarProRegressor

SMALL = {"n_units": 20, "n_subnetworks": 2, "max_nfev": 10, "random_state": 0}


@pytest.fixture(scope="module")
def bars():
    """Noisy images of a bar; its height and place are to be found."""
    rng = np.random.default_rng(0)
    height, place = rng.uniform(2, 7, 900), rng.uniform(1, 6, 900)
    rows, columns = np.arange(8)[:, None], np.arange(8)
    X = (rows[None] < height[:, None, None]) * np.exp(-((columns - place[:, None, None]) ** 2))
    X = X + 0.02 * rng.standard_normal(X.shape)
    return X.reshape(900, 64), np.column_stack([100 * height, place - 1000])


def test_two_numbers_on_any_scale(bars):
    X, y = bars
    regressor = VarProRegressor(recipe="bilinear", **SMALL).fit(X[:600], y[:600])
    found = regressor.predict(X[600:])
    assert found.shape == (300, 2)
    assert regressor.score(X[600:], y[600:]) > 0.97
    errors = np.square(found - y[600:]).mean()
    assert regressor.loo_error_ == pytest.approx(errors, rel=0.5)
    assert regressor.n_iter_ > 1
    untrained = VarProRegressor(recipe="bilinear", **{**SMALL, "max_nfev": 0})
    assert untrained.fit(X[:600], y[:600]).score(X[600:], y[600:]) < 0.97


def test_one_number_has_the_shape_it_came_in(bars):
    X, y = bars
    one = VarProRegressor(recipe="bilinear", **SMALL).fit(X, y[:, 0])
    assert one.predict(X[:7]).shape == (7,)
    dummy = cross_val_score(DummyRegressor(), X, y[:, 0], cv=2).max()
    assert dummy < 0.5 < cross_val_score(one, X, y[:, 0], cv=2).min()


def test_weights_of_nothing_are_rows_that_are_not_there(bars):
    X, y = bars
    wild = y.copy()
    wild[::3] += 1e6
    weights = np.ones(900)
    weights[::3] = 0
    kept = weights > 0
    settings = {**SMALL, "recipe": "bilinear"}
    weighted = VarProRegressor(**settings).fit(X, wild, sample_weight=weights)
    without = VarProRegressor(**settings).fit(X[kept], y[kept])
    assert_allclose(weighted.predict(X), without.predict(X), rtol=1e-3)


def test_the_default_recipe_has_windows(bars):
    X, y = bars
    regressor = VarProRegressor(n_units=12, random_state=0).fit(X[:600], y[:600])
    assert regressor.config_.units.kind == "patch"
    assert regressor.config_.output.layer == "ridge"
    assert regressor.score(X[600:], y[600:]) > 0.9


@pytest.mark.parametrize("name", ["loss", "output_layer"])
def test_least_squares_alone(name, bars):
    wrong = {"loss": "cross-entropy", "output_layer": "hinge"}[name]
    with pytest.raises(ValueError, match=f"{name} must be '.*' here, got '{wrong}'"):
        VarProRegressor(**{name: wrong}).fit(*bars)


def test_features_for_numbers(bars):
    X, y = bars
    of_numbers = VarProFeatures(recipe="bilinear", **SMALL).fit(X, y)
    labels = (y[:, 0] > 400).astype(int)
    of_labels = VarProFeatures(recipe="bilinear", **SMALL).fit(X, labels)
    assert not np.array_equal(of_numbers.W_, of_labels.W_)
    assert_array_equal(of_numbers.transform(X[:5]).shape, (5, 20))
