from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import VarProFunctional, learn_maps, load, units_on_maps, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data.images import one_hot
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import NonFiniteError
from varpro_nn.output import features, ridge_fit
from varpro_nn.output.penalties import RIDGES
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.output.ridge_sums import ridge_sums
from varpro_nn.units import patch_units

K = 10


def primal(units, W, images, labels, k, *, n_jobs=1, form="primal", **options):
    training = TrainingSet(images, labels, k)
    return fit_ridge(units, W, training, Compute(n_jobs), form=form, **options)


def dual(*problem, **options):
    return primal(*problem, form="dual", **options)


@pytest.fixture(scope="module")
def digits():
    train = load("digits").train
    return train.images, train.labels


def drawn(digits, rng, h, n=None, dtype=np.float64):
    images, labels = digits[0][:n], digits[1][:n]
    units = whole_image_units("bilinear", (8, 8), h)
    return units, units.init(images, rng).astype(dtype), images, labels


@pytest.mark.parametrize("lam", [0.1, 1.0, 100.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-3)])
def test_gluing_one_subnetwork_on_its_own_images_returns_its_linear_weights(
    dtype, tolerance, lam, digits, rng
):
    units, W, images, labels = drawn(digits, rng, 15, 400, dtype)
    functional = VarProFunctional(units, images, one_hot(labels, K), ridge=lam, dtype=dtype)
    own = functional.evaluate(W.astype(np.float64).ravel())
    report = primal(units, W, images, labels, K, ridge=lam)
    assert_allclose(report.A, own.A, rtol=0, atol=tolerance * np.abs(own.A).max())
    assert report.penalty == lam
    assert_allclose(report.losses, [own.loo_mse], rtol=tolerance)
    assert_allclose(report.error_rates, [own.loo_error], atol=2 / 400 if dtype == np.float32 else 0)


def test_it_is_ridge_regression_with_a_free_constant(digits, rng):
    """By the normal equations, and degrees of freedom by the trace of the hat matrix."""
    units, W, images, labels = drawn(digits, rng, 12, 300)
    Phi = np.column_stack([units.features(W, images), np.ones(300)])
    penalty = np.diag([3.0] * 12 + [0.0])
    inverse = np.linalg.inv(Phi.T @ Phi + penalty)
    report = primal(units, W, images, labels, K, ridge=3.0)
    assert_allclose(report.A, inverse @ Phi.T @ one_hot(labels, K), rtol=1e-8, atol=1e-9)
    assert_allclose(report.degrees_of_freedom, np.trace(Phi @ inverse @ Phi.T), rtol=1e-9)


def test_leave_one_out_is_leaving_one_out(digits, rng):
    units, W, images, labels = drawn(digits, rng, 8, 60)
    Phi, tau = units.features(W, images), one_hot(labels, K)
    ridges = (0.3, 30.0)
    report = primal(units, W, images, labels, K, ridge=ridges)
    for lam, mse, error in zip(ridges, report.losses, report.error_rates, strict=True):
        squares, wrong = [], []
        for i in range(60):
            others = np.arange(60) != i
            A = primal(units, W, images[others], labels[others], K, ridge=lam).A
            output = Phi[i] @ A[:-1] + A[-1]
            squares.append(np.sum((tau[i] - output) ** 2))
            wrong.append(output.argmax() != labels[i])
        assert_allclose(mse, np.mean(squares), rtol=1e-8)
        assert_allclose(error, np.mean(wrong), atol=1e-12)


def test_outputs_sum_to_one(digits, rng):
    units, W, images, labels = drawn(digits, rng, 20)
    A = primal(units, W, images, labels, K).A
    assert_allclose((units.features(W, images) @ A[:-1] + A[-1]).sum(axis=1), 1, atol=1e-10)


def test_the_ridge_is_the_best_of_the_trace(digits, rng):
    units, W, images, labels = drawn(digits, rng, 60, 200, np.float32)
    report = primal(units, W, images, labels, K)
    assert report.penalties == RIDGES
    assert len(report.losses) == len(report.error_rates) == len(RIDGES)
    trace = list(zip(report.error_rates, report.losses, report.penalties, strict=True))
    assert report.penalty == min(trace)[2]
    assert len({error for error, _, _ in trace}) > 1  # the grid makes a difference
    alone = primal(units, W, images, labels, K, ridge=report.penalty)
    assert_array_equal(alone.A, report.A)


def test_the_squared_error_breaks_ties(rng):
    """Dark and bright images, which any ridge tells apart: no left-out error along the grid."""
    labels = np.arange(40) % 2
    images = 0.2 * rng.random((40, 8, 8)) + 0.8 * labels[:, None, None]
    units = whole_image_units("bilinear", (8, 8), 5)
    W = units.init(images, rng)
    W[0, :16], W[0, 16] = 0.1, -0.2
    report = primal(units, W, images, labels, 2, ridge=(1.0, 0.01, 0.1))
    assert set(report.error_rates) == {0.0}
    assert len(set(report.losses)) == 3
    assert report.penalty == report.penalties[int(np.argmin(report.losses))]


def test_threads_change_no_bit(digits, rng):
    units, W, images, labels = drawn(digits, rng, 1030, 300, np.float32)
    one = primal(units, W, images, labels, K)
    for n_jobs in (2, 3):
        other = primal(units, W, images, labels, K, n_jobs=n_jobs)
        assert_array_equal(other.A, one.A)
        assert (other.penalty, other.losses, other.error_rates) == (
            one.penalty,
            one.losses,
            one.error_rates,
        )
        assert other.degrees_of_freedom == one.degrees_of_freedom


def test_blocks_of_images_change_nothing_but_rounding(digits, rng, monkeypatch):
    units, W, images, labels = drawn(digits, rng, 30)
    whole = primal(units, W, images, labels, K)
    monkeypatch.setattr(features, "BLOCK_BYTES", 1)
    blocks = primal(units, W, images, labels, K)
    assert len(features.block_slices(len(images), 30)) == 6
    assert blocks.penalty == whole.penalty
    assert_allclose(blocks.A, whole.A, rtol=1e-7, atol=1e-8)
    assert_allclose(blocks.losses, whole.losses, rtol=1e-9)


def test_the_order_of_the_images_does_not_matter(digits, rng):
    units, W, images, labels = drawn(digits, rng, 30)
    order = rng.permutation(len(images))
    first = primal(units, W, images, labels, K, ridge=1.0).A
    second = primal(units, W, images[order], labels[order], K, ridge=1.0).A
    assert_allclose(second, first, atol=1e-9)


def test_arguments_are_not_changed(digits, rng):
    units, W, images, labels = drawn(digits, rng, 10, 100, np.float32)
    before = W.copy(), images.copy(), labels.copy()
    primal(units, W, images, labels, K)
    for array, old in zip((W, images, labels), before, strict=True):
        assert_array_equal(array, old)


# --- what is hard ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridges", [RIDGES, (0.0,), (1e-8, 1.0)], ids=["grid", "zero", "tiny"])
def test_fewer_images_than_columns(ridges, dtype, digits, rng):
    units, W, images, labels = drawn(digits, rng, 90, 40, dtype)
    report = primal(units, W, images, labels, K, ridge=ridges)
    for values in (report.A, report.error_rates, report.degrees_of_freedom):
        assert np.isfinite(values).all()
    # A fit that goes through all images says nothing of those left out, and is not chosen.
    errors = dict(zip(report.penalties, report.losses, strict=True))
    assert not np.isnan(report.losses).any()
    assert errors.get(0.0, np.inf) == np.inf
    assert np.isfinite(errors[report.penalty]) or len(errors) == 1
    assert report.degrees_of_freedom <= 40 + 1e-3
    outputs = units.features(W, images) @ report.A[:-1] + report.A[-1]
    assert np.mean(outputs.argmax(axis=1) == labels) > 0.9


def test_twins_share_their_weight(digits, rng):
    units, W, images, labels = drawn(digits, rng, 10, 300)
    report = primal(units, np.concatenate([W, W]), images, labels, K, ridge=2.0)
    assert_allclose(report.A[:10], report.A[10:20], atol=1e-9)
    # Two columns of half the weight are penalised half as much: one column with half the ridge.
    alone = primal(units, W, images, labels, K, ridge=1.0).A
    assert_allclose(2 * report.A[:10], alone[:10], atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_a_saturated_unit_gets_no_weight_and_disturbs_nobody(ridge, dtype, digits, rng):
    units, W, images, labels = drawn(digits, rng, 10, 300, dtype)
    saturated = np.zeros((1, W.shape[1]), dtype)
    saturated[0, -1] = 1e3
    assert set(units.features(saturated, images).ravel()) == {1.0}
    A = primal(units, np.concatenate([W[:4], saturated, W[4:]]), images, labels, K, ridge=ridge).A
    assert_allclose(A[4], 0, atol=1e-10)
    alone = primal(units, W, images, labels, K, ridge=ridge).A
    # Beside another column BLAS sums the others in another order: their Gram matrix is off by
    # sqrt(n) eps / 2, and the weights by that times its condition number.
    Phi = units.features(W, images).astype(np.float64)
    squares = np.linalg.svd(Phi - Phi.mean(axis=0), compute_uv=False) ** 2 + ridge
    rounding = 0.5 * np.sqrt(len(Phi)) * np.finfo(dtype).eps * squares[0] / squares[-1]
    assert_allclose(np.delete(A, 4, axis=0), alone, rtol=0, atol=rounding * np.abs(alone).max())


def test_units_that_are_all_saturated_leave_the_shares_of_the_classes(digits):
    images, labels = digits[0][:200], digits[1][:200]
    units = whole_image_units("bilinear", (8, 8), 3)
    W = np.zeros((3, 17))
    W[:, -1] = 1e3
    report = primal(units, W, images, labels, K, ridge=(0.0, 1.0))
    outputs = units.features(W, images) @ report.A[:-1] + report.A[-1]
    assert_allclose(outputs, np.tile(np.bincount(labels, minlength=K) / 200, (200, 1)), atol=1e-12)


def test_a_class_without_images_gets_output_zero(digits, rng):
    images, labels = digits[0][digits[1] != 4], digits[1][digits[1] != 4]
    units = whole_image_units("bilinear", (8, 8), 12)
    W = units.init(images, rng)
    A = primal(units, W, images, labels, K).A
    assert_allclose(A[:, 4], 0, atol=1e-12)


@pytest.mark.parametrize("ridge", [-1.0, np.nan, np.inf, [], (1.0, -1e-9), (1.0, np.nan)], ids=str)
def test_ridges_are_checked(ridge, digits, rng):
    units, W, images, labels = drawn(digits, rng, 3, 50)
    with pytest.raises(ValueError, match="ridge must be finite and not negative, got"):
        primal(units, W, images, labels, K, ridge=ridge)


# --- the dual form -----------------------------------------------------------------------


def assert_same_fit(one, other, tolerance=1e-9):
    assert (one.penalty, one.penalties) == (other.penalty, other.penalties)
    assert_allclose(one.A, other.A, rtol=0, atol=tolerance * np.abs(other.A).max())
    assert_allclose(one.losses, other.losses, rtol=tolerance)
    assert_allclose(one.error_rates, other.error_rates, rtol=0, atol=1e-12)
    assert_allclose(one.degrees_of_freedom, other.degrees_of_freedom, rtol=tolerance)


def patches(digits, rng, h, n, activation="logistic"):
    """Units with several columns each, of several sizes."""
    images, labels = digits[0][:n], digits[1][:n]
    units = patch_units("dense", (8, 8), h, window=3, grid=2, activation=activation)
    W = units.init(images, rng)
    W[::3] *= 0.1
    return units, W, images, labels


STANDARDISE = pytest.mark.parametrize("standardise", [False, True], ids=["plain", "standardised"])


@STANDARDISE
@pytest.mark.parametrize(("h", "n"), [(30, 60), (10, 150)], ids=["q > n", "q < n"])
@pytest.mark.parametrize("n_bytes", [2**26, 5 * 4 * 4 * 60, 1], ids=["whole", "some", "one unit"])
@pytest.mark.parametrize("ridge", [RIDGES, 3.0], ids=["grid", "given"])
def test_the_dual_form_is_the_glue(ridge, n_bytes, h, n, standardise, digits, rng, monkeypatch):
    monkeypatch.setattr(ridge_fit, "DUAL_BLOCK_BYTES", n_bytes)
    problem = patches(digits, rng, h, n)
    options = {"ridge": ridge, "standardise": standardise}
    by_images = dual(*problem, K, **options)
    assert by_images.A.shape == (4 * h + 1, K)
    assert_same_fit(by_images, primal(*problem, K, **options))


@STANDARDISE
def test_two_sides_of_a_unit_are_columns_of_the_dual_form_too(
    standardise, digits, rng, monkeypatch
):
    monkeypatch.setattr(ridge_fit, "DUAL_BLOCK_BYTES", 3 * 4 * 8 * 60)
    problem = patches(digits, rng, 20, 60, activation="two-sided")
    assert_same_fit(
        dual(*problem, K, standardise=standardise), primal(*problem, K, standardise=standardise)
    )


@STANDARDISE
@pytest.mark.parametrize("level", [1.0, 0.1], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_bytes", [2**26, 1], ids=["whole", "one unit"])
def test_a_column_that_does_not_vary_does_not_disturb_the_dual_form(
    n_bytes, dtype, level, standardise, digits, rng, monkeypatch
):
    monkeypatch.setattr(ridge_fit, "DUAL_BLOCK_BYTES", n_bytes)
    units, W, images, labels = drawn(digits, rng, 80, 60, dtype)
    options = {"ridge": 1.0, "standardise": standardise}
    alone = dual(units, W, images, labels, K, **options)
    flat = np.zeros((1, W.shape[1]), dtype)
    flat[0, -1] = 1e3 if level == 1 else -np.log(9)
    assert_allclose(units.features(flat, images), level, rtol=1e-6)
    A = dual(units, np.concatenate([W[:4], flat, W[4:]]), images, labels, K, **options).A
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    assert_allclose(A[4], 0, atol=tolerance * np.abs(alone.A).max())
    assert_allclose(np.delete(A, 4, axis=0), alone.A, atol=tolerance * np.abs(alone.A).max())


@STANDARDISE
def test_threads_change_no_bit_of_the_dual_form(standardise, digits, rng, monkeypatch):
    monkeypatch.setattr(ridge_fit, "DUAL_BLOCK_BYTES", 4 * 300 * 600)
    units, W, images, labels = drawn(digits, rng, 1030, 300, np.float32)
    one = dual(units, W, images, labels, K, standardise=standardise)
    for n_jobs in (2, 3):
        other = dual(units, W, images, labels, K, standardise=standardise, n_jobs=n_jobs)
        assert_array_equal(other.A, one.A)
        for name in ("penalty", "losses", "error_rates", "degrees_of_freedom"):
            assert getattr(other, name) == getattr(one, name)


@STANDARDISE
def test_the_dual_form_leaves_its_arguments(standardise, digits, rng):
    units, W, images, labels = drawn(digits, rng, 40, 30, np.float32)
    before = W.copy(), images.copy(), labels.copy()
    dual(units, W, images, labels, K, standardise=standardise)
    for array, old in zip((W, images, labels), before, strict=True):
        assert_array_equal(array, old)


@pytest.mark.parametrize("form", [primal, dual])
def test_features_that_are_not_finite_are_an_error(form, digits, rng):
    units, W, images, labels = drawn(digits, rng, 40, 30)
    W[3] = np.nan
    with pytest.raises(NonFiniteError, match="features are NaN or infinite"):
        form(units, W, images, labels, K)


@pytest.mark.parametrize("ridge", [-1.0, np.nan, np.inf, [], (1.0, -1e-9)], ids=str)
def test_ridges_of_the_dual_form_are_checked(ridge, digits, rng):
    units, W, images, labels = drawn(digits, rng, 30, 20)
    with pytest.raises(ValueError, match="ridge must be finite and not negative, got"):
        dual(units, W, images, labels, K, ridge=ridge)


def test_labels_of_the_dual_form_are_checked(digits, rng):
    units, W, images, labels = drawn(digits, rng, 30, 20)
    with pytest.raises(ValueError, match="labels must be 1-D with one for each of 20 images"):
        dual(units, W, images, labels[1:], K)


def test_the_dual_form_is_for_images_without_weights(digits, rng):
    """By itself it is taken with more columns than images, none of them with a weight."""
    units, W, images, labels = drawn(digits, rng, 30, 20)
    weighted = TrainingSet(images, labels, K, np.ones(20))
    with pytest.raises(ValueError, match="form must be primal with sample weights or cells_below"):
        fit_ridge(units, W, weighted, Compute(), ridge=1.0, form="dual")
    plain = TrainingSet(images, labels, K)
    chosen = fit_ridge(units, W, plain, Compute(), ridge=1.0)
    assert_array_equal(chosen.A, dual(units, W, images, labels, K, ridge=1.0).A)
    chosen = fit_ridge(units, W, weighted, Compute(), ridge=1.0)
    assert_array_equal(chosen.A, primal(units, W, images, labels, K, ridge=1.0).A)
    lower = patch_units("dense", (8, 8), 9, window=3, grid=4)
    below = learn_maps(
        lower, lower.init(images, rng).astype(np.float32), images, rng,
        window=2, epsilon=0.1, n_components=5,
    )  # fmt: skip
    top = patch_units("dense", below.shape, 3, window=1, grid=2)
    seeing = units_on_maps(top, below, cells_below=2)
    of_top = seeing.init(images, rng)
    with pytest.raises(ValueError, match="form must be primal with sample weights or cells_below"):
        fit_ridge(seeing, of_top, plain, Compute(), ridge=1.0, form="dual")
    chosen = fit_ridge(seeing, of_top, plain, Compute(), ridge=1.0)
    assert_array_equal(chosen.A, primal(seeing, of_top, images, labels, K, ridge=1.0).A)
    assert chosen.A.shape == (3 * 4 + 9 * 4 + 1, K)
    chosen = fit_ridge(units, W[:20], plain, Compute(), ridge=1.0)
    assert_array_equal(chosen.A, primal(units, W[:20], images, labels, K, ridge=1.0).A)


def test_redundant_units_are_units(digits, rng):
    """A unit is redundant if columns of lower layers can replace it; these are never reported."""
    images, labels = digits[0][:200], digits[1][:200]
    lower = patch_units("dense", (8, 8), 4, window=3, grid=4)
    W = lower.init(images, rng).astype(np.float32)
    below = learn_maps(lower, W, images, rng, window=1, epsilon=0.1, n_components=2)
    units = units_on_maps(
        patch_units("dense", below.shape, 3, window=1, grid=1), below, cells_below=1
    )
    of_top = units.init(images, rng)
    of_top[1] = of_top[2]
    found = primal(units, of_top, images, labels, K, ridge=1.0)
    assert len(found.redundant_units) == 1
    assert found.redundant_units[0] in (1, 2)
    # A unit that is always on is linear in the map that it sees, as is the column of that map.
    one = patch_units("dense", (8, 8), 1, window=3, grid=4)
    W = one.init(images, rng).astype(np.float32)
    below = learn_maps(one, W, images, rng, window=1, epsilon=0.1, n_components=1)
    top = patch_units("dense", below.shape, 2, window=1, grid=1, activation="rectifier")
    linear = units_on_maps(top, below, cells_below=1)
    found = primal(linear, np.array([[1.0, 20.0], [3.0, 0.0]]), images, labels, K, ridge=1.0)
    assert (found.rank, found.redundant_units) == (2, (0,))
    constant = replace(units, below=replace(units.below, W=np.zeros_like(units.below.W)))
    found = primal(constant, units.init(images, rng), images, labels, K, ridge=1.0)
    assert found.redundant_units == (0, 1, 2)


class NoCluster(Executor):
    """An executor that takes no task."""

    def submit(self, *_, **__):
        msg = "a task was submitted"
        raise AssertionError(msg)


def test_copies_are_summed_on_this_machine(rng):
    """They are made here, so a cluster would have to be sent all of them."""
    units = whole_image_units("bilinear", (5, 5), 3)
    images = rng.random((20, 5, 5), dtype=np.float32)
    W = units.init(images, rng).astype(np.float32)
    training = TrainingSet(images, np.arange(20) % 2, 2)
    copies = training.repeated(np.concatenate([images, images]), 2)
    with Compute(1, executor=NoCluster()) as compute:
        assert ridge_sums(units, W, copies, compute).sum_weights == 40
        with pytest.raises(AssertionError, match="a task was submitted"):
            ridge_sums(units, W, training, compute)
