"""The output layer: what it is given, how its penalty is chosen, and what it must not see."""

import tempfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression

from varpro_nn import load, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data.images import one_hot
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ConvergenceWarning, NonFiniteError
from varpro_nn.linalg import GramAccumulator
from varpro_nn.linalg.convex import fit_linear
from varpro_nn.linalg.losses import LOSSES
from varpro_nn.output import feature_store, linear_fits, ridge_fit
from varpro_nn.output import fit as fit_module
from varpro_nn.output.fit import fit_output_layer, searched_images
from varpro_nn.output.output_layer import LAYERS, OutputLayer
from varpro_nn.output.penalties import PENALTIES, RIDGES
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.output.settings import OutputSettings

K = 3
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)
CONVEX = pytest.mark.parametrize("name", LAYERS[1:])
RIDGE_WAYS = pytest.mark.parametrize("way", ["leave-one-out", "split"])


@dataclass(frozen=True)
class PixelUnits:
    """Columns are what the images hold: a unit is a weighted sum of pixels."""

    n_units: int
    n_cells: int = 1

    @property
    def n_weights(self):
        return self.n_units

    def init(self, inputs, rng):
        return np.eye(self.n_units)

    def features(self, W, inputs):
        return inputs.reshape(len(inputs), -1) @ W.T

    def features_and_derivative(self, W, inputs):
        raise NotImplementedError


def problem(rng, n=240, q=6, k=K):
    """Columns of several sizes that tell the class in part."""
    X = rng.standard_normal((n, q))
    labels = np.argmax(2 * X @ rng.standard_normal((q, k)) + rng.gumbel(size=(n, k)), axis=1)
    Phi = (X * 10 ** rng.uniform(-1, 1, q) + rng.uniform(-1, 1, q)).astype(np.float32)
    return Phi, labels


def fit_columns(
    name, Phi, labels, k=K, *, n_jobs=1, sample_weight=None, factor=1.0, times=1,
    rng=None, keep_sums=False, standardise=True, penalty=None, scratch=None,
):  # fmt: skip
    """The output layer on given columns, times a factor; each image is there so many times."""
    q = Phi.shape[1]
    W = factor * np.eye(q, dtype=np.float32)
    training = TrainingSet(Phi[:, None], labels, k, sample_weight)
    settings = OutputSettings(
        layer=name, penalty=penalty, standardise=standardise, n_copies=times - 1
    )
    compute = Compute(n_jobs, scratch=scratch)
    return fit_output_layer(
        settings, PixelUnits(q), W, training, compute, rng=rng, keep_sums=keep_sums
    )


def scaled(Phi):
    """Columns of mean 0 and variance 1, double, and the means and deviations."""
    exact = Phi.astype(np.float64)
    mean, deviation = exact.mean(axis=0), exact.std(axis=0)
    return (exact - mean) / deviation, mean, deviation


def by_split(monkeypatch, way):
    if way == "split":
        monkeypatch.setattr(fit_module, "LARGEST_EIGENPROBLEM", 0)


class Recorded:
    """Stands for ``fit_linear`` and remembers what it was given and what it returned."""

    def __init__(self, **override):
        self.calls = []
        self._override = override

    def __call__(self, loss, Phi, labels, start, penalty, **options):
        fitted = fit_linear(loss, Phi, labels, start, penalty, **{**options, **self._override})
        kept = replace(fitted, A=fitted.A.copy())
        self.calls.append((Phi, np.array(Phi), labels.copy(), penalty, kept))
        return fitted


# --- the fit ------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_softmax_is_logistic_regression_on_scaled_columns(penalty, rng, monkeypatch):
    monkeypatch.setattr(linear_fits, "fit_linear", Recorded(tolerance=1e-12))
    Phi, labels = problem(rng)
    found = fit_columns("softmax", Phi, labels, penalty=penalty)
    Z, _, _ = scaled(Phi)
    other = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(Z, labels)
    outputs = Phi @ found.A[:-1] + found.A[-1]
    expected = Z @ other.coef_.T + other.intercept_
    outputs -= outputs.mean(axis=1, keepdims=True)  # a constant on all outputs is free
    expected -= expected.mean(axis=1, keepdims=True)
    assert_allclose(outputs, expected, atol=2e-3 * np.abs(expected).max())
    assert found.penalty == penalty
    assert found.chosen_by == "given"
    assert (found.penalties, found.losses, found.error_rates) == ((), (), ())
    assert np.isnan(found.error_rate)
    assert found.n_iterations > 0
    assert found.name == "softmax"


@CONVEX
def test_linear_weights_are_those_of_scaled_columns_folded(name, rng, monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr(linear_fits, "fit_linear", recorded)
    Phi, labels = problem(rng)
    found = fit_columns(name, Phi, labels)
    Z, _, _ = scaled(Phi)
    _, given, _, penalty, fitted = recorded.calls[-1]
    # The images put aside come first.
    order = [int(np.abs(Z - row).sum(axis=1).argmin()) for row in given]
    assert sorted(order) == list(range(len(Phi)))
    assert_allclose(given, Z[order], atol=1e-5)
    assert penalty == found.penalty
    assert_allclose(
        Phi @ found.A[:-1] + found.A[-1], Z @ fitted.A[:-1] + fitted.A[-1], rtol=1e-4, atol=1e-4
    )
    assert found.n_iterations == fitted.n_iterations


@EVERY_LAYER
@RIDGE_WAYS
def test_the_size_of_the_columns_does_not_matter(name, way, rng, monkeypatch):
    by_split(monkeypatch, way)
    Phi, labels = problem(rng)
    factor = 2.0 ** np.array([-6, 5, 0, 3, -2, 6])
    one = fit_columns(name, Phi, labels)
    other = fit_columns(name, Phi * factor.astype(np.float32), labels)
    assert other.penalty == one.penalty
    assert_allclose(other.A[:-1] * factor[:, None], one.A[:-1], rtol=1e-4, atol=1e-5)
    assert_allclose(other.A[-1], one.A[-1], rtol=1e-4, atol=1e-4)


@RIDGE_WAYS
@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("penalty", [0.5, 50.0])
def test_the_ridge_layer_is_ridge_regression(penalty, standardise, way, rng, monkeypatch):
    """Both ways to it, with the constant column free."""
    by_split(monkeypatch, way)
    Phi, labels = problem(rng)
    found = fit_columns("ridge", Phi, labels, penalty=penalty, standardise=standardise)
    Z = scaled(Phi)[0] if standardise else Phi
    ridge = np.append(np.full(Phi.shape[1], penalty), 0.0)
    A, _ = reference.ridge_fit(np.column_stack([Z, np.ones(len(Z))]), one_hot(labels, K), ridge)
    outputs = Phi @ found.A[:-1] + found.A[-1]
    assert_allclose(outputs, Z @ A[:-1] + A[-1], atol=2e-5)
    assert found.penalty == penalty
    assert found.chosen_by == "given"
    assert found.n_iterations == 0


def test_the_ridge_layer_is_the_one_with_leave_one_out_errors(rng):
    Phi, labels = problem(rng)
    training, W = TrainingSet(Phi[:, None], labels, K), np.eye(6, dtype=np.float32)
    for standardise in (False, True):
        found = fit_columns("ridge", Phi, labels, standardise=standardise)
        other = fit_ridge(PixelUnits(6), W, training, Compute(), standardise=standardise)
        assert_array_equal(found.A, other.A)
        assert found.penalty == other.penalty
        assert found.penalties == RIDGES
        assert found.losses == other.losses
        assert found.error_rates == other.error_rates
        assert found.error_rate == min(other.error_rates)
        assert found.chosen_by == "leave-one-out"


def test_a_fit_that_stops_early_warns_with_the_remedy(rng, monkeypatch):
    monkeypatch.setattr(linear_fits, "fit_linear", Recorded(max_iterations=4))
    Phi, labels = problem(rng)
    with pytest.warns(ConvergenceWarning, match=r"hinge layer is not at its optimum.*larger outp"):
        found = fit_columns("hinge", Phi, labels, penalty=1.0)
    assert found.excess > 1e-4
    monkeypatch.undo()
    found = fit_columns("hinge", Phi, labels, penalty=1.0)
    assert found.excess <= fit_module.FINAL_TOLERANCE
    assert 0 < found.gradient_norm < 1
    ridge = fit_columns("ridge", Phi, labels, penalty=1.0)
    assert (ridge.excess, ridge.gradient_norm) == (None, None)


@EVERY_LAYER
def test_held_out_outputs_are_averaged_over_the_views(name, rng, monkeypatch):
    """As the network averages them: the mirror image has the columns in the other order."""
    monkeypatch.setattr(fit_module, "GRID_TOLERANCE", 1e-14)
    Phi, labels = problem(rng, n=90)
    W = np.eye(6, dtype=np.float32)
    settings = OutputSettings(layer=name, views="flip", standardise=True)
    training = TrainingSet(Phi[:, None], labels, K)
    found = fit_output_layer(settings, PixelUnits(6), W, training, Compute(), rng=rng)
    assert found.chosen_by == "split"
    rows = found.left_out.rows
    kept = np.setdiff1d(np.arange(90), rows)
    mean, deviation = (f(Phi.astype(np.float64), axis=0) for f in (np.mean, np.std))
    Z = ((Phi - mean) / deviation).astype(np.float32)
    fits = linear_fits.LinearFits(name, Z[kept], labels[kept], K, None, None)
    A, _ = fits.fit(slice(None), found.penalty, None, tolerance=1e-14)
    both = np.stack([Phi[rows], Phi[rows][:, ::-1]])
    expected = (((both - mean) / deviation) @ A[:-1] + A[-1]).mean(axis=0)
    spread = expected.std()
    # Products in single precision leave 1e-7 of the cost: with small penalties 1 % of the outputs.
    assert_allclose(found.left_out.outputs, expected, atol=0.05 * spread)
    single = ((Phi[rows] - mean) / deviation) @ A[:-1] + A[-1]
    assert np.abs(single - expected).max() > spread


@pytest.mark.parametrize("views", ["single", "flip"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_file", [False, True])
@EVERY_LAYER
def test_few_images_are_fitted_with_as_many_columns(
    name, in_file, weighted, views, rng, monkeypatch
):
    """The layer is the one of a fit with all columns."""
    by_split(monkeypatch, "split")
    for tolerance in ("GRID_TOLERANCE", "FINAL_TOLERANCE"):
        monkeypatch.setattr(fit_module, tolerance, 1e-10)
    if in_file:
        monkeypatch.setattr(feature_store, "FEATURE_BYTES", 1)
    sizes = []

    class Fits(linear_fits.LinearFits):
        def __init__(self, name, Phi, *rest):
            sizes.append(Phi.shape)
            super().__init__(name, Phi, *rest)

    monkeypatch.setattr(fit_module, "LinearFits", Fits)
    Phi, labels = problem(rng, n=60, q=150)
    weights = rng.uniform(0, 2, 60) if weighted else None
    training = TrainingSet(Phi[:, None], labels, K, weights)
    settings = OutputSettings(layer=name, views=views, standardise=True)

    def fit(few):
        monkeypatch.setattr(fit_module, "FEW_ROWS", few)
        W, seeded = np.eye(150, dtype=np.float32), np.random.default_rng(0)
        return fit_output_layer(settings, PixelUnits(150), W, training, Compute(), rng=seeded)

    whole, found = fit(0.0), fit(0.8)
    assert sizes == [(60, 150), (60, 60)]
    assert found.penalty == whole.penalty
    outputs, expected = (Phi @ layer.A[:-1] + layer.A[-1] for layer in (found, whole))
    assert_allclose(outputs, expected, atol=1e-3 * np.abs(expected).max())
    assert_allclose(found.A, whole.A, atol=1e-2 * np.abs(whole.A).max())
    spread = whole.left_out.outputs.std()
    assert_allclose(found.left_out.outputs, whole.left_out.outputs, atol=1e-2 * spread)


# --- the choice --------------------------------------------------------------------------


@EVERY_LAYER
def test_the_penalty_is_the_best_of_the_trace(name, rng, monkeypatch):
    by_split(monkeypatch, "split")
    Phi, labels = problem(rng, n=180, q=60)
    found = fit_columns(name, Phi, labels, rng=rng)
    grid = RIDGES[::-2] if name == "ridge" else PENALTIES
    assert found.chosen_by == "split"
    assert found.penalties == tuple(grid[: len(found.penalties)])
    assert len(found.penalties) == len(found.losses) == len(found.error_rates) > 1
    best = int(np.argmin(found.losses))  # not of the error rates, which are too coarse
    assert found.penalty == found.penalties[best]
    assert found.error_rate == found.error_rates[best]
    # The search goes on as long as nothing is worse than the best, and then ends.
    running = np.minimum.accumulate(found.losses)
    assert (found.losses[:-1] == running[:-1]).all()
    ended = found.losses[-1] > running[-1]
    assert ended or len(found.penalties) == len(grid)


def identified(rng, n, times, q=5):
    """Columns whose first says which image a row is, or is a copy of; copies are made noisy."""
    Phi, labels = problem(rng, n, q)
    Phi[:, 0] = np.arange(n)
    copies = [Phi]
    for _ in range(times - 1):
        copies.append(Phi + 0.5 * rng.standard_normal(Phi.shape).astype(np.float32))
        copies[-1][:, 0] = Phi[:, 0]
    return np.concatenate(copies), np.tile(labels, times)


@CONVEX
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("n_searched", [90, 61], ids=["all searched", "some searched"])
def test_images_put_aside_are_never_fitted_nor_their_copies(
    name, times, n_searched, rng, monkeypatch
):
    """And it is on them, not on their copies, that the errors are counted."""
    recorded = Recorded()
    monkeypatch.setattr(linear_fits, "fit_linear", recorded)
    monkeypatch.setattr(fit_module, "SEARCHED_ROWS", n_searched * times)
    monkeypatch.setattr(fit_module, "SEARCHED_ROWS_PER_COLUMN", 0)
    n = 90
    rows, labels = identified(rng, n, times)
    found = fit_columns(name, rows, labels, times=times, rng=rng)
    Z, mean, deviation = scaled(rows)

    def images_of(given):
        return np.rint(given[:, 0] * deviation[0] + mean[0]).astype(int)

    *search, (_, last, last_labels, _, _) = recorded.calls
    assert_array_equal(np.sort(images_of(last)), np.repeat(np.arange(n), times))
    kept = images_of(search[0][1])
    aside = found.left_out.rows
    assert len(np.unique(aside)) == len(aside) == n_searched // 6
    images, counts = np.unique(kept, return_counts=True)
    assert set(counts) == {times}
    assert len(images) == n_searched - n_searched // 6
    assert not set(aside) & set(images)
    assert len(search) == len(found.penalties)
    search.sort(key=lambda call: -call[3])  # the grid may have gone on past its larger end
    for (_, given, given_labels, penalty, fitted), tried, loss, rate in zip(
        search, found.penalties, found.losses, found.error_rates, strict=True
    ):
        assert_array_equal(images_of(given), kept)
        assert_array_equal(given_labels, labels[kept])
        assert penalty == tried
        outputs = Z[aside] @ fitted.A[:-1] + fitted.A[-1]
        assert rate == pytest.approx(np.mean(outputs.argmax(axis=1) != labels[aside]))
        assert loss == pytest.approx(LOSSES[name].at(outputs, labels[aside])[0].mean(), rel=1e-4)
    assert_array_equal(last_labels, labels[images_of(last)])


@RIDGE_WAYS
def test_copies_do_not_flatter_the_ridge_layer(way, rng, monkeypatch):
    """Labels of pure chance: only a row whose copy is in the fit could be told."""
    by_split(monkeypatch, way)
    Phi = rng.standard_normal((300, 150)).astype(np.float32)
    labels = rng.integers(K, size=300)
    rows, twice = np.concatenate([Phi, Phi]), np.tile(labels, 2)
    found = fit_columns("ridge", rows, twice, times=2, rng=rng)
    assert min(found.error_rates) > 0.45
    assert found.chosen_by == "split"


@EVERY_LAYER
def test_copies_come_in_whole_sets(name, rng):
    Phi, labels = problem(rng, n=25)
    with pytest.raises(ValueError, match="images must be two or more, each 2 times, got 25"):
        fit_columns(name, Phi, labels, times=2)


@CONVEX
def test_a_penalty_is_not_chosen_on_one_image(name, rng):
    Phi, labels = problem(rng, n=1)
    with pytest.raises(ValueError, match="images must be two or more, each 1 times, got 1"):
        fit_columns(name, Phi, labels)
    assert np.isfinite(fit_columns(name, Phi, labels, penalty=1.0).A).all()


def test_along_the_grid_ridge_regression_sees_the_images_kept(rng, monkeypatch):
    by_split(monkeypatch, "split")
    recorded = []
    fit = linear_fits.LinearFits.fit

    def record(self, rows, penalty, start, **options):
        A, n_iterations = fit(self, rows, penalty, start, **options)
        recorded.append(
            (self._Phi[rows].astype(np.float64), self._targets[rows], penalty, A.copy())
        )
        return A, n_iterations

    monkeypatch.setattr(linear_fits.LinearFits, "fit", record)
    Phi, labels = problem(rng, n=30)
    found = fit_columns("ridge", Phi, labels, rng=rng)
    assert [len(given) for given, *_ in recorded] == [25] * len(found.penalties) + [30]
    everything, all_labels, _, _ = recorded[-1]
    aside, tau = everything[:5], one_hot(all_labels[:5], K)  # they come first
    for (_, _, _, A), loss in zip(recorded[:-1], found.losses, strict=True):
        residual = tau - aside @ A[:-1] - A[-1]
        assert loss == pytest.approx(0.5 * np.square(residual).sum(axis=1).mean(), rel=1e-4)
    for given, given_labels, penalty, A in recorded:
        ridge = np.append(np.full(6, penalty), 0.0)
        rows = np.column_stack([given, np.ones(len(given))])
        expected, _ = reference.ridge_fit(rows, one_hot(given_labels, K), ridge)
        assert_allclose(A, expected, rtol=1e-4, atol=2e-5)


def test_which_images_are_put_aside_is_drawn(rng):
    Phi, labels = problem(rng, n=180, q=60)
    traces = [
        fit_columns("softmax", Phi, labels, rng=np.random.default_rng(seed)).error_rates
        for seed in (1, 1, 2, 3)
    ]
    assert traces[0] == traces[1]
    assert len(set(traces)) > 1


def test_it_gains_on_the_ridge_layer_on_digits():
    train, test = load("digits").train, load("digits").test
    units = whole_image_units("bilinear", (8, 8), 60)
    W = units.init(train.images, np.random.default_rng(0)).astype(np.float32)
    wrong = {}
    for name in LAYERS:
        settings = OutputSettings(layer=name, standardise=True)
        A = fit_output_layer(settings, units, W, TrainingSet.of(load("digits")), Compute()).A
        outputs = units.features(W, test.images) @ A[:-1] + A[-1]
        wrong[name] = np.mean(outputs.argmax(axis=1) != test.labels)
    assert wrong["softmax"] < 0.9 * wrong["ridge"]
    assert wrong["hinge"] < 0.9 * wrong["ridge"]


# --- the way there -----------------------------------------------------------------------


def assert_same(one: OutputLayer, other: OutputLayer):
    assert_array_equal(one.A, other.A)
    names = ("penalty", "penalties", "losses", "error_rates", "n_iterations", "chosen_by")
    for name in names:
        assert getattr(one, name) == getattr(other, name)


@EVERY_LAYER
def test_threads_change_no_bit(name, rng, monkeypatch):
    """More images than a task and more columns than a tile."""
    by_split(monkeypatch, "split")
    Phi, labels = problem(rng, n=600, q=520)
    assert_same(*(fit_columns(name, Phi, labels, n_jobs=n_jobs) for n_jobs in (1, 2)))


@EVERY_LAYER
def test_features_in_a_file_change_no_bit(name, rng, monkeypatch):
    by_split(monkeypatch, "split")
    recorded = Recorded()
    monkeypatch.setattr(linear_fits, "fit_linear", recorded)
    monkeypatch.setattr("varpro_nn.output.features.BLOCK_BYTES", 1)
    Phi, labels = problem(rng, n=600)
    one = fit_columns(name, Phi, labels)
    assert not any(isinstance(given, np.memmap) for given, *_ in recorded.calls)
    n_calls = len(recorded.calls)
    monkeypatch.setattr(feature_store, "FEATURE_BYTES", 1)
    assert_same(fit_columns(name, Phi, labels), one)
    assert all(isinstance(given, np.memmap) for given, *_ in recorded.calls[n_calls:])


def test_features_in_a_file_are_in_the_folder_of_the_run(rng, monkeypatch, tmp_path):
    """Temporary files of the system may be in memory."""
    monkeypatch.setattr(feature_store, "FEATURE_BYTES", 1)
    by_split(monkeypatch, "split")
    folders = []
    file = tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda dir=None: folders.append(dir) or file(dir=dir)
    )
    Phi, labels = problem(rng)
    fit_columns("ridge", Phi, labels, scratch=tmp_path)
    assert folders == [tmp_path]
    assert list(tmp_path.iterdir()) == []


@EVERY_LAYER
def test_arguments_are_not_changed(name, rng):
    Phi, labels = problem(rng)
    before = Phi.copy(), labels.copy()
    fit_columns(name, Phi, labels)
    for array, old in zip((Phi, labels), before, strict=True):
        assert_array_equal(array, old)


# --- what is refused, what is hard -------------------------------------------------------


@EVERY_LAYER
def test_features_that_are_not_finite_are_an_error(name, rng, monkeypatch):
    by_split(monkeypatch, "split")
    Phi, labels = problem(rng)
    Phi[7, 2] = 3e38
    with (
        pytest.raises(NonFiniteError, match="features are NaN or infinite"),
        np.errstate(all="ignore"),
    ):
        fit_columns(name, Phi, labels, factor=2.0)


def test_features_that_are_not_finite_are_an_error_of_leave_one_out_too(rng):
    Phi, labels = problem(rng)
    Phi[7, 2] = 3e38
    with (
        pytest.raises(NonFiniteError, match="features are NaN or infinite"),
        np.errstate(all="ignore"),
    ):
        fit_columns("ridge", Phi, labels, factor=2.0)


def test_an_unknown_layer_is_refused(rng):
    with pytest.raises(ValueError, match="must be one of ridge, softmax, hinge, got 'logistic'"):
        fit_columns("logistic", *problem(rng))


@EVERY_LAYER
@pytest.mark.parametrize("penalty", [-1.0, np.nan, np.inf])
def test_penalties_are_checked(name, penalty, rng):
    with pytest.raises(ValueError, match=f"penalty must be finite and at least 0, got {penalty}"):
        fit_columns(name, *problem(rng), penalty=penalty)


def test_only_the_ridge_layer_does_without_a_penalty(rng):
    Phi, labels = problem(rng)
    A = fit_columns("ridge", Phi, labels, penalty=0.0).A
    outputs, tau = Phi @ A[:-1] + A[-1], one_hot(labels, K)
    assert_allclose(scaled(Phi)[0].T @ (outputs - tau), 0, atol=1e-2)
    for name in LAYERS[1:]:
        with pytest.raises(ValueError, match=r"penalty must be positive with the .* layer, got 0"):
            fit_columns(name, Phi, labels, penalty=0.0)


@EVERY_LAYER
def test_labels_are_checked(name, rng):
    Phi, labels = problem(rng)
    with pytest.raises(ValueError, match="labels must be 0 to 1, got 0 to 2"):
        fit_columns(name, Phi, labels, k=2)
    with pytest.raises(ValueError, match="labels must be 1-D with one for each of 240 images"):
        fit_columns(name, Phi, labels[1:])


@EVERY_LAYER
@RIDGE_WAYS
@pytest.mark.parametrize("n", [2, 3, 5, 6, 11])
def test_few_images_are_enough(name, way, n, rng, monkeypatch):
    by_split(monkeypatch, way)
    Phi, labels = problem(rng, n=n)
    found = fit_columns(name, Phi, labels)
    assert np.isfinite(found.A).all()
    assert np.isfinite(found.penalty)


@EVERY_LAYER
@RIDGE_WAYS
def test_classes_that_are_missing_get_the_smallest_outputs(name, way, rng, monkeypatch):
    """One class has a single image, which seed 3 puts aside; another has none at all."""
    by_split(monkeypatch, way)
    Phi, labels = problem(rng, n=60, k=2)
    labels[0] = 2
    for seed in (0, 3):
        found = fit_columns(name, Phi, labels, k=4, rng=np.random.default_rng(seed))
        outputs = Phi @ found.A[:-1] + found.A[-1]
        assert np.isfinite(outputs).all()
        assert 3 not in outputs.argmax(axis=1)


@EVERY_LAYER
@RIDGE_WAYS
def test_a_column_that_does_not_vary_gets_no_weight(name, way, rng, monkeypatch):
    by_split(monkeypatch, way)
    Phi, labels = problem(rng)
    Phi[:, 2] = 0.7
    A = fit_columns(name, Phi, labels, penalty=1.0).A
    others = np.delete(A, 2, axis=0)
    assert_allclose(0.7 * A[2], 0, atol=1e-4 * np.abs(others).max())
    alone = fit_columns(name, np.delete(Phi, 2, axis=1), labels, penalty=1.0).A
    outputs, expected = Phi @ A[:-1] + A[-1], np.delete(Phi, 2, axis=1) @ alone[:-1] + alone[-1]
    assert_allclose(outputs, expected, atol=2e-2 * np.abs(expected).max())


# --- ridge regression on columns of variance 1 --------------------------------------------


def ridge_path(Phi, tau, weights=None, *, standardise=True):
    sums = GramAccumulator(Phi.shape[1], tau.shape[1])
    for rows in (slice(0, 17), slice(17, None)):
        sums.add(Phi[rows].copy(), tau[rows], None if weights is None else weights[rows])
    return sums.path(standardise=standardise)


WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
SOME_RIDGES = np.array([0.01, 1.0, 30.0])


@WEIGHTED
def test_standardised_ridge_solves_in_columns_of_variance_1(weighted, rng):
    Phi, labels = problem(rng, n=40)
    Phi, tau = Phi.astype(np.float64), one_hot(labels, K)
    weights = rng.uniform(0.2, 3, 40) if weighted else np.ones(40)
    mean = weights @ Phi / weights.sum()
    deviation = np.sqrt(weights @ (Phi - mean) ** 2 / weights.sum())
    Z = np.column_stack([(Phi - mean) / deviation, np.ones(40)])
    path = ridge_path(Phi, tau, weights if weighted else None)
    loo = path.leave_one_out([(Phi.copy(), tau, weights)], SOME_RIDGES)
    for number, ridge in enumerate(SOME_RIDGES):
        ridges = np.append(np.full(6, ridge), 0.0)
        expected, _ = reference.ridge_fit(Z, tau, ridges, weights)
        A = path.solve(ridge)
        assert_allclose(Phi @ A[:-1] + A[-1], Z @ expected, rtol=1e-8, atol=1e-10)
        # Left-out fits with the scales of all rows: the hat matrix is that of fixed columns.
        mean_squared_error, error_rate = reference.left_out_errors(Z, tau, ridges, weights)
        assert_allclose(loo.mean_squared_error[number], mean_squared_error, rtol=1e-7)
        assert_allclose(loo.error_rate[number], error_rate, rtol=1e-10)
        hat = Z @ np.linalg.solve(Z.T @ (weights[:, None] * Z) + np.diag(ridges), Z.T * weights)
        assert_allclose(path.degrees_of_freedom(ridge), np.trace(hat), rtol=1e-9)


@pytest.mark.parametrize("standardise", [True, False])
def test_only_the_standardised_ridge_ignores_the_size_of_columns(standardise, rng):
    Phi, labels = problem(rng, n=40)
    Phi, tau = Phi.astype(np.float64), one_hot(labels, K)
    factor = 10.0 ** np.array([-2, 1, 0, 2, -1, 1])
    one = ridge_path(Phi, tau, standardise=standardise).solve(1.0)
    other = ridge_path(Phi * factor, tau, standardise=standardise).solve(1.0)
    moved = np.abs(Phi @ one[:-1] + one[-1] - (Phi * factor) @ other[:-1] - other[-1]).max()
    assert moved < 1e-10 if standardise else moved > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_column_is_not_blown_up(dtype, rng):
    Phi, labels = problem(rng, n=40)
    Phi = Phi.astype(dtype)
    Phi[:, 3] = 0.1
    A = ridge_path(Phi, one_hot(labels, K)).solve(1e-3)
    alone = ridge_path(np.delete(Phi, 3, axis=1), one_hot(labels, K)).solve(1e-3)
    assert_allclose(A[3], 0, atol=1e-4 * np.abs(alone).max())
    assert_allclose(np.delete(A, 3, axis=0), alone, rtol=1e-3, atol=1e-3 * np.abs(alone).max())


# --- weights, real targets, what the layer did not see -----------------------------------


@RIDGE_WAYS
def test_a_ridge_layer_with_weights(way, monkeypatch, rng):
    by_split(monkeypatch, way)
    Phi, labels = problem(rng)
    times = rng.integers(1, 4, len(Phi))
    repeated = np.repeat(np.arange(len(Phi)), times)
    options = {"penalty": 3.0, "standardise": False}
    weighted = fit_columns("ridge", Phi, labels, sample_weight=times.astype(float), **options)
    plain = fit_columns("ridge", Phi[repeated], labels[repeated], **options)
    assert_allclose(weighted.A, plain.A, rtol=1e-3, atol=1e-4 * np.abs(plain.A).max())


@RIDGE_WAYS
def test_real_targets_are_regressed_on(way, monkeypatch, rng):
    by_split(monkeypatch, way)
    Phi, _ = problem(rng, n=400)
    A = rng.standard_normal((6, 2))
    tau = Phi @ A + 0.1 * rng.standard_normal((400, 2)) * np.abs(Phi @ A).mean() + 5
    fitted = fit_columns("ridge", Phi, tau, k=2)
    found = Phi @ fitted.A[:-1] + fitted.A[-1]
    assert np.square(found - tau).sum() < 0.05 * np.square(tau - tau.mean(axis=0)).sum()
    assert np.isnan(fitted.error_rate) or way == "leave-one-out"
    with pytest.raises(ValueError, match=r"labels must be class numbers for the layer softmax"):
        fit_columns("softmax", Phi, tau, k=2)


@EVERY_LAYER
def test_outputs_that_did_not_see_their_image_are_kept(name, rng):
    Phi, labels = problem(rng)
    fitted = fit_columns(name, Phi, labels)
    rows, outputs = fitted.left_out.rows, fitted.left_out.outputs
    assert len(rows) == (len(Phi) if name == "ridge" else len(Phi) // 6)
    assert outputs.shape == (len(rows), K)
    wrong = np.mean(outputs.argmax(axis=1) != labels[rows])
    assert wrong == pytest.approx(fitted.error_rate)
    given = fit_columns(name, Phi, labels, penalty=1.0)
    assert (given.left_out is None) == (name != "ridge")


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (-np.ones(240), "sample_weight must be finite and not negative"),
        (np.full(240, np.nan), "sample_weight must be finite"),
        (np.ones(239), r"sample_weight must be \(240,\), .* got shape \(239,\)"),
        (np.zeros(240), "sample_weight must be positive for one row at least"),
    ],
)
def test_weights_that_are_none(weights, match, rng):
    with pytest.raises(ValueError, match=match):
        fit_columns("ridge", *problem(rng), sample_weight=weights)


# --- what the layer was fitted from -------------------------------------------------------


@pytest.mark.parametrize("standardise", [False, True], ids=["plain", "standardised"])
@pytest.mark.parametrize(
    ("n", "form"), [(240, "sums"), (40, "rows")], ids=["more images", "fewer images"]
)
@RIDGE_WAYS
@pytest.mark.parametrize("penalty", [None, 3.0], ids=["chosen", "given"])
def test_sums_are_kept_without_another_pass(penalty, way, n, form, standardise, rng, monkeypatch):
    """The layer that is kept is the one that was fitted, and goes on from there."""
    by_split(monkeypatch, way)
    monkeypatch.setattr(ridge_fit, "DUAL_BLOCK_BYTES", 4 * 40 * 7)  # the dual form in tiles
    Phi, labels = problem(rng, n=n, q=60)
    computed = []

    def features_of(self, W, inputs):
        computed.append(inputs.size)
        return inputs.reshape(len(inputs), -1) @ W.T

    monkeypatch.setattr(PixelUnits, "features", features_of)
    options = {"penalty": penalty, "standardise": standardise}
    plain = fit_columns("ridge", Phi, labels, **options)
    alone, computed[:] = sum(computed), []
    kept = fit_columns("ridge", Phi, labels, keep_sums=True, **options)
    assert sum(computed) == alone
    assert_same(kept, plain)
    assert plain.ridge_layer is None
    layer = kept.ridge_layer
    assert layer.form == form
    assert layer.n_images == n
    scale = np.abs(kept.A).max()
    found = layer.solve(kept.penalty, standardise=standardise)
    outputs, expected = (Phi @ A[:-1] + A[-1] for A in (found, kept.A))
    assert_allclose(outputs, expected, atol=1e-3)
    assert_allclose(found, kept.A, atol=3e-2 * scale)
    rest = slice(n // 4, None)
    layer.remove_images(Phi[: n // 4, None], labels[: n // 4])
    other = fit_columns("ridge", Phi[rest], labels[rest], penalty=3.0, standardise=False)
    outputs, expected = (Phi @ A[:-1] + A[-1] for A in (layer.solve(3.0), other.A))
    assert_allclose(outputs, expected, atol=1e-3)


def test_sums_that_no_ridge_layer_holds_are_not_kept(rng):
    Phi, labels = problem(rng)
    for name, targets, weights in (
        ("softmax", labels, None),
        ("ridge", one_hot(labels, K), None),
        ("ridge", labels, np.ones(240)),
    ):
        with pytest.raises(
            ValueError, match=r"keep_sums needs output_layer='ridge', n_copies=0, and class labels"
        ):
            fit_columns(name, Phi, targets, sample_weight=weights, keep_sums=True)


def test_of_very_many_images_some_take_part_in_the_search():
    assert searched_images(60_000, 2, 1152) == 60_000
    assert searched_images(500_000, 1, 2304) == 200_000
    assert searched_images(500_000, 3, 2304) == 66_666
    assert searched_images(2_000_000, 1, 10_000) == 300_000
