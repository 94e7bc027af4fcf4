"""As few columns as rows: the same outputs, penalty and fits as the columns that they stand for."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn._io.mapped import release_rows
from varpro_nn._io.memory import resident_memory_mib
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg import row_space
from varpro_nn.linalg.convex import fit_linear
from varpro_nn.linalg.losses import LOSSES
from varpro_nn.linalg.row_space import RowSpace

SHAPES = [(1, 5), (12, 13), (30, 200)]
K = 3


def columns(rng, n, q):
    """Centred columns of several sizes."""
    Phi = rng.standard_normal((n, q)) * 10 ** rng.uniform(-2, 2, q)
    return Phi - Phi.mean(axis=0)


@pytest.mark.parametrize(("n", "q"), SHAPES)
def test_outputs_and_penalty_are_kept(n, q, rng, monkeypatch):
    """The way back leads to the linear weights with the same outputs and norm."""
    monkeypatch.setattr(row_space, "COLUMNS", 60)
    Phi = rng.standard_normal((n, q))
    space, B = RowSpace(Phi), rng.standard_normal((n + 1, K))
    A = space.weights(B)
    assert space.columns.shape == (n, n)
    assert A.shape == (q + 1, K)
    assert_allclose(Phi @ A[:-1], space.columns @ B[:-1], rtol=1e-9, atol=1e-9)
    assert_allclose(np.linalg.norm(A[:-1], axis=0), np.linalg.norm(B[:-1], axis=0), rtol=1e-9)
    assert_array_equal(A[-1], B[-1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", ["plain", "rows twice", "weighted", "part of the rows"])
def test_a_fit_is_the_one_of_all_columns(loss, case, rng):
    n, q = 40, 90
    Phi = columns(rng, n, q)
    labels = np.argmax(Phi @ rng.standard_normal((q, K)) + rng.gumbel(size=(n, K)), axis=1)
    weights = rng.uniform(0.1, 3, n) if case == "weighted" else None
    if case == "rows twice":
        Phi[n // 2 :], labels[n // 2 :] = Phi[: n // 2], labels[: n // 2]
    rows = slice(10, None) if case == "part of the rows" else slice(None)

    def fit(of):
        start = np.zeros((of.shape[1] + 1, K))
        return fit_linear(
            loss, of[rows], labels[rows], start, 0.3, tolerance=1e-12, sample_weight=weights
        )

    space = RowSpace(Phi)
    whole, small = fit(Phi), fit(space.columns)
    assert_allclose(small.cost, whole.cost, rtol=1e-9)
    assert_allclose(space.weights(small.A), whole.A, atol=1e-5 * np.abs(whole.A).max())


def test_rows_of_zeros_and_fewer_directions_than_rows(rng):
    Phi = rng.standard_normal((20, 4)) @ rng.standard_normal((4, 50))
    Phi[3] = 0.0
    space = RowSpace(Phi)
    B = space.columns.T @ rng.standard_normal((20, K))  # as an optimum: a combination of rows
    A = space.weights(np.vstack([B, np.ones(K)]))
    scale = np.abs(space.columns @ B).max()
    assert_allclose(Phi @ A[:-1], space.columns @ B, atol=1e-6 * scale)
    assert_allclose(space.columns[3], 0, atol=1e-6)


def test_single_precision(rng):
    """Products run in the type of the columns; the outputs agree up to its rounding."""
    Phi = columns(rng, 50, 400).astype(np.float32)
    space = RowSpace(Phi)
    assert space.columns.dtype == np.float32
    B = space.columns.T.astype(float) @ rng.standard_normal((50, K))
    A = space.weights(np.vstack([B, np.zeros(K)]))
    outputs = space.columns @ B
    assert_allclose(Phi @ A[:-1], outputs, atol=2e-5 * np.abs(outputs).max())


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_rows_of_two_classes_stay_equal(loss, rng):
    """No column of their own separates them, even with a small penalty and single precision."""
    n, q, k, twice = 120, 400, 4, 20
    Phi = np.maximum(rng.standard_normal((n, 12)) @ rng.standard_normal((12, q)), 0)
    labels = rng.integers(0, k, n)
    Phi[-twice:], labels[-twice:] = Phi[:twice], (labels[:twice] + 1) % k
    Phi = ((Phi - Phi.mean(axis=0)) / Phi.std(axis=0)).astype(np.float32)
    space = RowSpace(Phi)
    start = np.zeros((n + 1, k))
    fitted = fit_linear(loss, space.columns, labels, start, 1e-3, tolerance=1e-6)
    A = space.weights(fitted.A)
    outputs = Phi.astype(np.float64) @ A[:-1] + A[-1]
    cost = LOSSES[loss].at(outputs, labels)[0].sum() + 0.5e-3 * np.square(A[:-1]).sum()
    assert_allclose(fitted.cost, cost, rtol=2e-3)
    assert_allclose(outputs[-twice:], outputs[:twice], atol=1e-4)


def test_rows_in_a_file_do_not_stay_in_memory(rng, tmp_path):
    Phi = np.memmap(tmp_path / "Phi", np.float32, "w+", shape=(60, 40_000))
    Phi[:] = rng.standard_normal(Phi.shape, dtype=np.float32)
    B = rng.standard_normal((61, K))
    from_file, in_memory = RowSpace(Phi), RowSpace(np.array(Phi))
    release_rows(Phi, slice(0, 60))
    before = resident_memory_mib()
    assert_array_equal(RowSpace(Phi).columns, in_memory.columns)
    assert_array_equal(from_file.weights(B), in_memory.weights(B))
    assert resident_memory_mib() - before < Phi.nbytes / 2**20 / 2


def test_threads_change_no_bit(rng, monkeypatch):
    monkeypatch.setattr(row_space, "COLUMNS", 700)
    Phi, B = columns(rng, 600, 1500).astype(np.float32), rng.standard_normal((601, K))
    alone = RowSpace(Phi)
    with ThreadPoolExecutor(3) as threads:
        shared = RowSpace(Phi, threads)
        assert_array_equal(shared.columns, alone.columns)
        assert_array_equal(shared.weights(B), alone.weights(B))


def test_a_row_of_zeros_beside_small_rows(rng):
    """It must not get a column of its own that is larger than the other rows."""
    Phi = 1e-6 * rng.standard_normal((5, 20))
    Phi[2] = 0.0
    assert np.abs(RowSpace(Phi).columns[2]).max() < 1e-10


def test_columns_of_zeros(rng):
    B = rng.standard_normal((4, K))
    A = RowSpace(np.zeros((3, 5), np.float32)).weights(B)
    assert_array_equal(A, np.vstack([np.zeros((5, K)), B[-1]]))


def test_columns_that_are_not_finite_are_an_error():
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        RowSpace(np.full((2, 5), np.inf))
