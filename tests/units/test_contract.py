"""Units that break their contract are named, with what was expected and what came."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import RidgeLayer, VarProFunctional, fit, patch_units, whole_image_units
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.subnetwork import SubnetworkPlan, train_one

T = np.linspace(0, 1, 12)


@dataclass
class Decays:
    """exp(-w t), sound or with what the tests put in the place of a result."""

    n_units: Any = 2
    n_cells: Any = 1
    n_weights: Any = 1
    of_init: Any = None
    of_features: Any = None
    of_derivative: Any = None

    def init(self, inputs, rng):
        return rng.random((2, 1)) if self.of_init is None else self.of_init

    def features(self, W, inputs):
        Phi = np.exp(-np.reshape(inputs, (len(inputs), -1))[:, :1] * W[:, 0])
        return Phi if self.of_features is None else self.of_features(Phi)

    def features_and_derivative(self, W, inputs):
        Phi = self.features(W, inputs)
        pair = Phi, (-np.reshape(inputs, (len(inputs), -1))[:, :1] * Phi)[:, None, :, None]
        return pair if self.of_derivative is None else self.of_derivative(*pair)


def evaluate(units, method="gradient"):
    functional = VarProFunctional(units, T, 1 - T, dtype=np.float64)
    return getattr(functional, method)([1.0, 2.0])


def test_sound_units_are_taken():
    assert np.isfinite(evaluate(Decays())).all()


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ({"n_units": 2.5}, ValueError, "Decays.n_units must be a positive whole number, got 2.5"),
        ({"n_cells": 0}, ValueError, "Decays.n_cells must be a positive whole number, got 0"),
        (
            {"of_features": lambda Phi: Phi.T},
            ValueError,
            r"Decays.features must return (n, h * m), here (12, 2), got shape (2, 12).",
        ),
        (
            {"of_features": lambda Phi: Phi.tolist()},
            TypeError,
            "Decays.features must return an array (n, h * m), got list.",
        ),
        (
            {"of_features": lambda Phi: Phi.astype(complex)},
            TypeError,
            "Decays.features must return real numbers, of the type of W, got complex128.",
        ),
        (
            {"of_derivative": lambda Phi, dPhi: dPhi},
            TypeError,
            "Decays.features_and_derivative must return two arrays, the features and their "
            "derivative, got ndarray.",
        ),
        (
            {"of_derivative": lambda Phi, dPhi: (Phi, dPhi, dPhi)},
            TypeError,
            "must return two arrays, the features and their derivative, got 3 of them.",
        ),
        (
            {"of_derivative": lambda Phi, dPhi: (Phi, dPhi[:, 0])},
            ValueError,
            "Decays.features_and_derivative (second array) must return (n, m, h, p), here "
            "(12, 1, 2, 1), got shape (12, 2, 1).",
        ),
        (
            {"of_derivative": lambda Phi, dPhi: (Phi.T, dPhi)},
            ValueError,
            "(first array) must return (n, h * m), here (12, 2), got shape (2, 12).",
        ),
    ],
)
def test_what_breaks_the_contract_is_named(broken, error, message):
    with pytest.raises(error, match=re.escape(message)):
        evaluate(Decays(**broken))


def test_missing_members_and_classes_are_named():
    class NoDerivative:
        n_units, n_cells, n_weights = 2, 1, 1
        features = Decays.features

    with pytest.raises(TypeError, match="got NoDerivative without features_and_derivative; see"):
        evaluate(NoDerivative())
    with pytest.raises(TypeError, match="units must be an object, got the class Decays; call it"):
        evaluate(Decays)


def test_what_breaks_the_contract_is_named_by_the_output_layer_too():
    units, images = Decays(of_features=lambda Phi: Phi.T), np.ones((12, 1, 3))
    with pytest.raises(
        ValueError, match=r"Decays.features must return \(n, h \* m\), here \(12, 2\)"
    ):
        RidgeLayer(units, np.ones((2, 1)), 2).add_images(images, np.arange(12) % 2)


@pytest.mark.parametrize("of_init", [np.zeros((1, 2)), [[1.0], [2.0]]], ids=["shape", "list"])
def test_weights_drawn_are_checked_where_units_train(of_init):
    images = np.random.default_rng(0).random((12, 1, 3))
    training = TrainingSet(images, np.arange(12) % 2, 2)
    plan = SubnetworkPlan(Decays(of_init=of_init), SubnetworkSettings())
    with pytest.raises((TypeError, ValueError), match=r"Decays.init must return .*\(h, p\).* got"):
        train_one(training, plan, 0)


# --- numbers that mean more than they say ------------------------------------------------


def masked(values):
    """The same numbers, the first two of them missing."""
    return np.ma.array(values, mask=np.arange(np.size(values)).reshape(np.shape(values)) < 2)


@pytest.mark.parametrize("name", ["inputs", "tau", "sample_weight", "fixed", "w0", "w"])
def test_masked_values_are_refused(name):
    """The mask was dropped, and the number under it was fitted."""
    arrays = {
        "inputs": T, "tau": 1 - T, "sample_weight": np.ones(12), "fixed": T[:, None]**2,
        "w0": np.array([1.0, 2.0]), "w": np.array([1.0, 2.0]),
    }  # fmt: skip

    def use(given):
        functional = VarProFunctional(
            Decays(), given["inputs"], given["tau"], sample_weight=given["sample_weight"],
            fixed=given["fixed"], dtype=np.float64,
        )  # fmt: skip
        return fit(functional, given["w0"], max_nfev=3).w, functional.gradient(given["w"])

    with pytest.raises(ValueError, match=f"{name} must have no masked values, got 2 of "):
        use({**arrays, name: masked(arrays[name])})
    if name != "inputs":
        with pytest.raises(ValueError, match=f"{name} must be real, got complex128"):
            use({**arrays, name: arrays[name] + 1j})
    # Nothing is masked: an array like any other.
    for one, other in zip(
        use({**arrays, name: np.ma.array(arrays[name])}), use(arrays), strict=True
    ):
        assert_array_equal(one, other)


@pytest.mark.parametrize(
    "units",
    [whole_image_units("dense", (4, 4), 2), patch_units("dense", (4, 4), 2, window=2, grid=2)],
    ids=["whole image", "patches"],
)
def test_masked_and_complex_images_are_refused(units):
    images = np.random.default_rng(0).random((5, 4, 4))
    W = units.init(images, np.random.default_rng(0))
    for use in (
        lambda X: units.init(X, np.random.default_rng(0)),
        lambda X: units.features(W, X),
        lambda X: units.features_and_derivative(W, X),
    ):
        with pytest.raises(ValueError, match="inputs must have no masked values"):
            use(masked(images))
        with pytest.raises(ValueError, match="inputs must be real"):
            use(images + 1j)
