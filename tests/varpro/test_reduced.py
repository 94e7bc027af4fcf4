"""What the functionals share, and the two orders in which their sums can be taken."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from unit_checks import CellUnits

from varpro_nn.varpro.cross_entropy import CrossEntropyFunctional
from varpro_nn.varpro.functional import VarProFunctional
from varpro_nn.varpro.jacobian import NormalSums, by_classes
from varpro_nn.varpro.reduced import check_penalties, is_full

N = 40


def problem(rng, m, k, *, weighted=False, loss=VarProFunctional, **choices):
    """Units of m cells with two fixed columns, and targets of k classes."""
    units = CellUnits(2, m, 3)
    inputs = rng.standard_normal((N, m, 3))
    arguments = {"ridge": 0.3, "weight_decay": 0.1, "dtype": np.float64, **choices}
    if weighted:
        arguments["sample_weight"] = rng.uniform(0.3, 2, N)
    tau = np.eye(k)[rng.permutation(np.arange(N) % k)]
    functional = loss(units, inputs, tau, fixed=rng.standard_normal((N, 2)), **arguments)
    return functional, units.init(inputs, rng).ravel()


# --- sums by cells or by classes ----------------------------------------------------------


def sums_of(functional, w, *, by_cells, full, matrix=True):
    """Gauss-Newton matrix and gradient in one of the two orders; two share several blocks."""
    solution = functional._evaluate(w)[1].solution
    m, n_unit_columns = functional.units.n_cells, functional.design.n_unit_columns
    sums, other = (NormalSums(solution, m, n_unit_columns, full=full) for _ in range(2))
    chosen = sums._by_cells
    sums._by_cells = other._by_cells = by_cells
    for number, rows in enumerate(functional.design.derivative_slices()):
        block, dPhi = functional.design.block_and_derivative(w, rows)
        (sums, other)[number % 2].add(block, dPhi, matrix=matrix)
    sums.merge(other)
    return chosen, sums.matrix() if matrix else None, sums.gradient()


@pytest.mark.parametrize("full", [False, True], ids=["kaufman", "full"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("m", "k"), [(1, 2), (2, 2), (3, 10), (4, 10)])
def test_both_orders_have_the_same_sums(m, k, weighted, full, rng, monkeypatch):
    functional, w = problem(rng, m, k, weighted=weighted)
    J = functional.jacobian(w, "full" if full else "kaufman", "array")
    r = functional.residual(w)
    n_decay = w.size  # its rows come last, and are not in these sums
    H, g = J[:-n_decay].T @ J[:-n_decay], J[:-n_decay].T @ r[:-n_decay]
    monkeypatch.setattr("varpro_nn.varpro.design_matrix.DERIVATIVE_BYTES", 1_000 * m)
    assert len(functional.design.derivative_slices()) > 1
    for by_cells in (True, False):
        chosen, matrix, gradient = sums_of(functional, w, by_cells=by_cells, full=full)
        assert_allclose(matrix, H, atol=1e-12 * np.abs(H).max())
        assert_allclose(gradient, g, atol=1e-12 * np.abs(g).max())
        alone = sums_of(functional, w, by_cells=by_cells, full=False, matrix=False)[2]
        assert_allclose(alone, g, atol=1e-12 * np.abs(g).max())
        assert chosen == (m <= 3 if k == 10 else m == 1)


def test_derivatives_of_the_outputs(rng):
    dPhi, A = rng.standard_normal((5, 3, 2, 4)), rng.standard_normal((3, 2, 6))
    B = by_classes(dPhi, A)
    assert B.shape == (5, 6, 2, 4)
    for j in range(5):
        for c in range(6):
            for i in range(2):
                expected = sum(A[cell, i, c] * dPhi[j, cell, i] for cell in range(3))
                assert_allclose(B[j, c, i], expected, rtol=1e-12)
    assert by_classes(dPhi.astype(np.float32), A).dtype == np.float32


# --- what is shared -----------------------------------------------------------------------

EVERY_LOSS = pytest.mark.parametrize("loss", [VarProFunctional, CrossEntropyFunctional])


@EVERY_LOSS
def test_the_memo_goes_by_value(loss, rng):
    functional, w = problem(rng, 2, 3, loss=loss)
    first = functional.evaluate(w)
    assert functional.evaluate(w.copy()) is first
    w[0] += 0.1  # what was kept is a copy
    assert functional.evaluate(w) is not first
    assert first.w[0] != w[0]


@EVERY_LOSS
@pytest.mark.parametrize("shape", [(7,), (9,), (4, 2), ()])
def test_the_shape_of_the_weights_is_checked(loss, shape, rng):
    functional, _ = problem(rng, 2, 3, loss=loss)
    assert functional.n_weights == 8
    with pytest.raises(ValueError, match=r"w must have shape \(8,\) or \(2, 4\), got"):
        functional.cost(np.zeros(shape))


@EVERY_LOSS
def test_weight_decay_is_in_cost_gradient_and_matrix(loss, rng):
    seed = rng.bit_generator.seed_seq.entropy
    (one, w), (other, _) = (
        problem(np.random.default_rng(seed), 2, 3, loss=loss, weight_decay=nu) for nu in (0.0, 0.7)
    )
    assert other.cost(w) == pytest.approx(one.cost(w) + 0.35 * w @ w, rel=1e-9)
    assert_allclose(other.gradient(w), one.gradient(w) + 0.7 * w, rtol=1e-8, atol=1e-9)
    H, H_decay = one.normal_equations(w)[0], other.normal_equations(w)[0]
    assert_allclose(H_decay, H + 0.7 * np.eye(8), rtol=1e-8, atol=1e-9)


@EVERY_LOSS
def test_an_unknown_jacobian_is_refused(loss, rng):
    functional, w = problem(rng, 2, 3, loss=loss)
    with pytest.raises(ValueError, match="kind must be 'kaufman' or 'full', got 'half'"):
        functional.reduced(w, "half")


@EVERY_LOSS
def test_the_residual_at_a_trial_point_needs_no_derivative(loss, rng, monkeypatch):
    functional, w = problem(rng, 2, 3, loss=loss)
    expected = functional.reduced(w)[0]

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(CellUnits, "features_and_derivative", refuse)
    assert_array_equal(functional.reduced_residual(w), expected)


def test_penalties_and_kinds():
    check_penalties(0.0, 0.0)
    assert is_full("full")
    assert not is_full("kaufman")
