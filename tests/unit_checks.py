"""The one checker of the unit contract (``varpro_nn.units.Units``), and small problems.

Two units of one's own come along: some that look at several places of an input with the same
weights, and the exponentials of the classical separable problems.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logit

from varpro_nn.units import Units, whole_image_units
from varpro_nn.units.contract import check_members
from varpro_nn.varpro.functional import VarProFunctional

PREACTIVATION = {"logistic": logit, "tanh": np.arctanh}


@dataclass(frozen=True)
class CellUnits:
    """tanh(w'x + b) at each of several places of an input (n, cells, d): columns share weights."""

    n_units: int
    n_cells: int
    length: int

    @property
    def n_weights(self) -> int:
        return self.length + 1

    def init(self, inputs: Any, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((self.n_units, self.n_weights)) / np.sqrt(self.n_weights)

    def features(self, W: np.ndarray, inputs: Any) -> np.ndarray:
        z = np.asarray(inputs, dtype=W.dtype) @ W[:, :-1].T + W[:, -1]  # (n, m, h)
        return np.tanh(z).reshape(len(inputs), -1)

    def features_and_derivative(self, W: np.ndarray, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        Phi = self.features(W, inputs)
        X = np.concatenate(
            [inputs, np.ones((*np.shape(inputs)[:2], 1))], axis=2, dtype=W.dtype
        )  # (n, m, p)
        slope = (1 - Phi**2).reshape(len(inputs), self.n_cells, -1)
        return Phi, slope[..., None] * X[:, :, None, :]


@dataclass(frozen=True)
class ExponentialUnits:
    """exp(-w t) at abscissae t (n,): one weight, the rate of a decay."""

    n_units: int
    n_cells: int = 1
    n_weights: int = 1

    def init(self, inputs: Any, rng: np.random.Generator) -> np.ndarray:
        # Well apart: sums of exponentials with similar rates are badly conditioned.
        rates = rng.uniform(1.5, 2.5, self.n_units) * 5.0 ** np.arange(self.n_units)
        return rates[:, None] / np.max(inputs)

    def features(self, W: np.ndarray, inputs: Any) -> np.ndarray:
        return np.exp(-np.multiply.outer(np.asarray(inputs, dtype=W.dtype), W[:, 0]))

    def features_and_derivative(self, W: np.ndarray, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        Phi = self.features(W, inputs)
        t = np.asarray(inputs, dtype=W.dtype)
        return Phi, (-t[:, None] * Phi)[:, None, :, None]


STEP = 3e-4
"""Of the finite differences; they reach twice as far."""


def check_units(
    units: Units,
    inputs: Any,
    rng: np.random.Generator,
    *,
    standardised: bool | None = None,
    sides_of_kinks: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Check ``units`` against the contract on a handful of ``inputs``.

    ``standardised`` says whether to check that ``init`` standardises the pre-activations. By
    default it does so for units that have an ``activation``.

    Units that are not smooth everywhere give ``sides_of_kinks``: of weights ``W``, an array
    (n, m, h, any number) that changes if, and only if, something in that column crosses a kink.
    A finite difference that reaches over a kink is no derivative, and is left out; nearly all
    must be left in.
    """
    check_members(units, to_draw=True)
    assert isinstance(units, Units)
    frozen = np.array(inputs)
    frozen.flags.writeable = False
    _check_init(units, frozen, rng)
    if hasattr(units, "activation") if standardised is None else standardised:
        _check_standardised(units, frozen, rng)
    W = units.init(frozen, rng)
    _check_shapes_and_types(units, W, frozen)
    _check_derivative(units, W, frozen, sides_of_kinks)
    _check_rows_are_independent(units, W, frozen)
    _check_any_number_of_units(units, W, frozen, rng)
    assert_array_equal(frozen, inputs)


def _check_init(units: Units, inputs: Any, rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    W, again, other = (units.init(inputs, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    assert W.shape == (units.n_units, units.n_weights)
    assert W.dtype == np.float64
    assert np.isfinite(W).all()
    assert_array_equal(W, again)
    assert not np.array_equal(W, other)


def _check_standardised(units: Any, inputs: Any, rng: np.random.Generator) -> None:
    """Mean 0 and standard deviation ``gain`` on the inputs, to single precision."""
    Phi = units.features(units.init(inputs, rng), inputs)
    z = PREACTIVATION[units.activation](Phi)
    assert_allclose(z.mean(axis=0), 0, atol=1e-5 * units.gain)
    assert_allclose(z.std(axis=0), units.gain, rtol=1e-5)


def _check_shapes_and_types(units: Units, W: np.ndarray, inputs: Any) -> None:
    """What is returned has the type of ``W``; single precision is double, rounded."""
    n, m, h, p = len(inputs), units.n_cells, units.n_units, units.n_weights
    exact, exact_derivative = units.features_and_derivative(W, inputs)
    for dtype, tolerance in ((np.float32, 2e-4), (np.float64, 1e-13)):
        V = W.astype(dtype)
        V.flags.writeable = False
        Phi = units.features(V, inputs)
        same, dPhi = units.features_and_derivative(V, inputs)
        assert Phi.shape == same.shape == (n, h * m)
        assert dPhi.shape == (n, m, h, p)
        assert Phi.dtype == same.dtype == dPhi.dtype == dtype
        assert_allclose(same, Phi, rtol=tolerance, atol=tolerance)
        assert_allclose(Phi, exact, rtol=tolerance, atol=tolerance)
        scale = np.abs(exact_derivative).max()
        assert_allclose(dPhi, exact_derivative, rtol=tolerance, atol=tolerance * scale)


def _check_derivative(
    units: Units,
    W: np.ndarray,
    inputs: Any,
    sides_of_kinks: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    """Finite differences, the derivatives by another unit's weights (zero) included."""
    n, m, h = len(inputs), units.n_cells, units.n_units
    _, dPhi = units.features_and_derivative(W, inputs)
    numeric = reference.derivative(lambda V: units.features(V, inputs), W, step=STEP)
    numeric = numeric.reshape(n, m, h, *W.shape)
    smooth = np.full(dPhi.shape, True)
    if sides_of_kinks is not None:
        smooth = _smooth(sides_of_kinks, W)
        assert smooth.mean() > 0.9
    expected = np.zeros_like(numeric)
    for i in range(h):
        expected[:, :, i, i] = np.where(smooth[:, :, i], dPhi[:, :, i], numeric[:, :, i, i])
    assert_allclose(numeric, expected, rtol=1e-8, atol=1e-9 * np.abs(dPhi).max())


def _smooth(sides_of_kinks: Callable[[np.ndarray], np.ndarray], W: np.ndarray) -> np.ndarray:
    """Where a finite difference by a weight crosses no kink, (n, m, h, p)."""
    here = sides_of_kinks(W)
    smooth = np.full((*here.shape[:3], W.shape[1]), True)
    for weight in range(W.shape[1]):
        for steps in (-2, -1, 1, 2):
            V = W.copy()
            V[:, weight] += steps * STEP  # of all units at once: they are independent
            smooth[..., weight] &= (sides_of_kinks(V) == here).all(axis=-1)
    return smooth


def _check_rows_are_independent(units: Units, W: np.ndarray, inputs: Any) -> None:
    Phi, dPhi = units.features_and_derivative(W, inputs)
    atol = _rounding(Phi)
    for rows in (slice(0, 1), slice(1, 4), slice(3, None), slice(None, None, 2)):
        block, derivative = units.features_and_derivative(W, inputs[rows])
        assert_allclose(units.features(W, inputs[rows]), Phi[rows], rtol=1e-11, atol=atol)
        assert_allclose(block, Phi[rows], rtol=1e-11, atol=atol)
        assert_allclose(derivative, dPhi[rows], rtol=1e-11, atol=_rounding(dPhi))


def _check_any_number_of_units(
    units: Units, W: np.ndarray, inputs: Any, rng: np.random.Generator
) -> None:
    """Unit i is a function of row i of ``W`` alone, wherever the row stands."""
    n, m, h = len(inputs), units.n_cells, units.n_units
    Phi, dPhi = units.features_and_derivative(W, inputs)
    for order in (np.array([0]), rng.integers(h, size=h + 3)):
        some, derivative = units.features_and_derivative(W[order], inputs)
        expected = Phi.reshape(n, m, h)[:, :, order].reshape(n, -1)
        atol = _rounding(Phi)
        assert_allclose(some, expected, rtol=1e-11, atol=atol)
        assert_allclose(units.features(W[order], inputs), expected, rtol=1e-11, atol=atol)
        assert_allclose(derivative, dPhi[:, :, order], rtol=1e-11, atol=_rounding(dPhi))


def _rounding(values: np.ndarray) -> float:
    """Error of values that are near zero, as those of a rectifier near its kink.

    They are sums of d <= 100 products with windows, normalised or whitened, each as large as the
    largest value or ten times so: d eps / 2 of them, 1e-14, and ten times that, 1e-13.
    """
    return 1e-12 * float(np.abs(values).max())


# --- small problems for the tests of the functional --------------------------------------


class CountingUnits:
    """Units that count the calls of ``features`` and, at some of them, return NaN."""

    def __init__(self, units: Units, broken: Collection[int] = ()) -> None:
        self._units = units
        self._broken = broken
        self.n_features = 0
        self.n_units, self.n_cells, self.n_weights = units.n_units, units.n_cells, units.n_weights

    def init(self, inputs: Any, rng: np.random.Generator) -> np.ndarray:
        return self._units.init(inputs, rng)

    def features(self, W: np.ndarray, inputs: Any) -> np.ndarray:
        self.n_features += 1
        Phi = self._units.features(W, inputs)
        return np.full_like(Phi, np.nan) if self.n_features in self._broken else Phi

    def features_and_derivative(self, W: np.ndarray, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        return self._units.features_and_derivative(W, inputs)


PROBLEMS: dict[str, tuple[Units, tuple[int, ...], int]] = {
    # units, shape of one input, targets: a functional sees n_units, n_cells, n_weights and arrays
    "bilinear": (whole_image_units("bilinear", (3, 4), 3), (3, 4), 3),
    "one_target": (whole_image_units("bilinear", (3, 3), 3), (3, 3), 1),
    "few_cells": (CellUnits(2, 2, 4), (2, 4), 5),  # m^2 <= k
    "cells": (CellUnits(2, 3, 4), (3, 4), 3),  # m^2 > k
    "exponential": (ExponentialUnits(2), (), 2),  # no images
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalised": {"ridge": 0.1, "weight_decay": 0.05},
    "weighted": {"ridge": 0.1, "weight_decay": 0.05, "weights": True, "fixed": 2},
    "no_constant": {"constant": False, "fixed": 1},
    "no_constant_penalised": {"constant": False, "ridge": 0.2, "weights": True},
}
EVERY_CASE = pytest.mark.parametrize(
    ("problem", "setting"),
    [(problem, "weighted") for problem in PROBLEMS]
    + [(problem, setting) for problem in ("bilinear", "cells") for setting in SETTINGS
       if setting != "weighted"],
)  # fmt: skip
"""Each problem with all that a functional takes, and each setting with one cell and with more."""


def inputs_of(problem: str, rng: np.random.Generator, n: int = 24) -> np.ndarray:
    _, shape, _ = PROBLEMS[problem]
    return np.linspace(0, 3, n) if shape == () else rng.random((n, *shape))


@dataclass(frozen=True)
class Case:
    """A functional in double precision, a start, and all that it was made of."""

    functional: VarProFunctional
    w: np.ndarray
    units: Units
    inputs: np.ndarray
    tau: np.ndarray
    fixed: np.ndarray
    weights: np.ndarray
    ridge: float
    decay: float
    constant: bool

    @property
    def W(self) -> np.ndarray:  # noqa: N802
        return self.w.reshape(self.units.n_units, -1)

    @property
    def Phi(self) -> np.ndarray:  # noqa: N802
        """All columns, (n, q)."""
        constant = np.ones((len(self.tau), int(self.constant)))
        return np.hstack([self.units.features(self.W, self.inputs), self.fixed, constant])

    @property
    def ridge_of_columns(self) -> np.ndarray:
        ridge = np.full(self.Phi.shape[1], self.ridge)
        if self.constant:
            ridge[-1] = 0.0
        return ridge

    def augmented(self) -> tuple[np.ndarray, np.ndarray]:
        K, y = reference.augmented(self.Phi, self.tau, self.ridge_of_columns, self.weights)
        return self.rotated(K), self.rotated(y)

    def rotated(self, rows: np.ndarray) -> np.ndarray:
        """Turn the penalty rows of fixed columns, (n + d, ...), as the functional does.

        The directions are the right singular vectors of the weighted columns.
        """
        if not (self.ridge and self.fixed.size):
            return rows
        weighted = np.sqrt(self.weights)[:, None] * self.fixed
        eliminated = self.functional.design.eliminated
        V = eliminated.T / np.linalg.norm(eliminated.T, axis=0)
        sigma = np.linalg.norm(weighted @ V, axis=0)
        assert_allclose(weighted.T @ weighted @ V, V * sigma**2, atol=1e-10 * sigma.max() ** 2)
        first = len(self.tau) + self.W.shape[0] * self.units.n_cells
        last = first + self.fixed.shape[1]
        turned = np.tensordot(V.T, rows[first:last], axes=1)
        return np.concatenate([rows[:first], turned, rows[last:]])

    def output_derivative(self) -> np.ndarray:
        """Derivative (n, k, h p) of the weighted outputs by ``w``, for fixed linear weights."""
        _, dPhi = self.units.features_and_derivative(self.W, self.inputs)
        _, m, h, _ = dPhi.shape
        A = self.functional.evaluate(self.w).A[: m * h].reshape(m, h, -1)
        B = np.einsum("nmhp,mhk->nkhp", dPhi, A).reshape(*self.tau.shape, -1)
        return np.sqrt(self.weights)[:, None, None] * B


def case_of(problem: str, setting: str, rng: np.random.Generator, **choices: Any) -> Case:
    units, _, k = PROBLEMS[problem]
    inputs = inputs_of(problem, rng)
    n = len(inputs)
    tau = rng.standard_normal((n, k))
    weights = rng.uniform(0.3, 2, n)
    w = units.init(inputs, rng).ravel()
    arguments = dict(SETTINGS[setting])
    if arguments.pop("weights", False):
        arguments["sample_weight"] = weights
    else:
        weights = np.ones(n)
    fixed = rng.standard_normal((n, arguments.pop("fixed", 0)))
    if fixed.size:
        arguments["fixed"] = fixed
    return Case(
        functional=VarProFunctional(
            units, inputs, tau, **{"dtype": np.float64, **arguments, **choices}
        ),
        w=w,
        units=units,
        inputs=inputs,
        tau=tau,
        fixed=fixed,
        weights=weights,
        ridge=arguments.get("ridge", 0.0),
        decay=arguments.get("weight_decay", 0.0),
        constant=arguments.get("constant", True),
    )
