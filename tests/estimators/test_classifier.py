"""The classifier of scikit-learn's face, beside the pipeline that it calls."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context, metrics
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from varpro_nn import (
    VarProClassifier,
    VarProFeatures,
    VarProRegressor,
    configure,
    train_network,
)
from varpro_nn.compute.compute import Compute
from varpro_nn.data.imageset import held_out
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import IntensityWarning
from varpro_nn.estimators.base import SETTINGS
from varpro_nn.output.fit import fit_output_layer
from varpro_nn.output.settings import OutputSettings

SMALL = {
    "recipe": "bilinear", "n_units": 30, "n_subnetworks": 3, "max_nfev": 4,
    "images_per_subnetwork": 400, "random_state": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    """Shuffled: the last ones were written by other people than the first."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    return X[:1200], y[:1200], X[1200:], y[1200:]


@pytest.fixture(scope="module")
def fitted(digits):
    return VarProClassifier(**SMALL).fit(*digits[:2])


# --- the same as the pipeline ------------------------------------------------------------


def test_it_is_the_network_of_the_pipeline(digits, fitted):
    X, y, Z, _ = digits
    network, subnetworks, layer = train_network(
        fitted.config_, (X / X.max()).reshape(-1, 8, 8).astype(np.float32), y, np.arange(10)
    )
    assert_array_equal(fitted.network_.W, network.W)
    assert_allclose(fitted.network_.A, network.A)
    images = (Z / X.max()).reshape(-1, 8, 8).astype(np.float32)
    assert_array_equal(fitted.predict(Z), network.predict(images))
    assert_array_equal(fitted.predict_proba(Z), network.predict_proba(images))
    assert_array_equal(fitted.decision_function(Z), network.decision_function(images))
    assert [r.cost for r in fitted.history_] == [s.report.cost for s in subnetworks]
    assert fitted.n_iter_ == 4
    assert_allclose(fitted.loo_error_, 1 - (1 - layer.error_rate))


def test_it_classifies(digits, fitted):
    assert fitted.score(*digits[2:]) > 0.85
    assert fitted.loo_error_ < 0.12


def test_every_setting_is_a_parameter():
    parameters = VarProClassifier().get_params()
    assert set(SETTINGS) <= set(parameters)
    assert {"recipe", "image_shape", "n_jobs", "random_state", "warm_start", "class_weight"} <= set(
        parameters
    )
    assert set(SETTINGS) < set(configure("default", data="digits").options())
    assert not {"seed", "n_train", "bootstrap", "bootstrap_ridge"} & set(SETTINGS)
    assert VarProClassifier("tiny").get_params()["recipe"] == "tiny"
    with pytest.raises(TypeError, match=r"VarProClassifier.__init__\(\) takes from 1 to 2"):
        VarProClassifier("tiny", (8, 8))
    with pytest.raises(TypeError, match=r"VarProClassifier has no parameters colour"):
        VarProClassifier(colour="red")
    with pytest.raises(ValueError, match=r"patience was removed; stop early with the callback"):
        VarProClassifier(patience=2)
    with pytest.warns(FutureWarning, match="glue_ridge is now named output_penalty"):
        assert VarProClassifier(glue_ridge=2.0).output_penalty == 2.0


def test_stages_end_with_few_images(rng):
    """As from the command line: 768 fixed columns would explain 600 images."""
    images, y = rng.random((600, 28, 28)), np.arange(600) % 2
    fitted = VarProClassifier("default", max_nfev=0, output_layer="ridge", n_copies=0)
    assert fitted.fit(images, y).config_.subnetworks.scheme == "independent"


def test_settings_reach_the_configuration(digits):
    classifier = VarProClassifier(n_units=8, ridge=3.0, random_state=5).fit(*digits[:2])
    config = classifier.config_
    assert (config.recipe, config.units.kind, config.output.layer) == ("default", "patch", "hinge")
    assert (config.units.n_units, config.subnetworks.ridge) == (8, 3.0)
    assert classifier.score(*digits[2:]) > 0.9


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"recipe": "fast"}, "recipe must be one of"),
        ({"recipe": ["tiny"]}, "recipe must be one of"),
        ({"n_units": 0}, "n_units must be"),
        ({"n_units": np.arange(3)}, "n_units must be of type int, got array"),
        ({"image_shape": "8x8"}, r"image_shape must be a tuple \(rows, columns\).* got '8x8'"),
        ({"image_shape": (7, 9)}, r"image_shape must be .* of 64 pixels in all, got \(7, 9\)"),
        ({"n_jobs": 0}, "n_jobs must be"),
        ({"class_weight": "balance"}, "class_weight must be a dict .* got 'balance'"),
        ({"class_weight": [1, 2]}, r"class_weight must be a dict .* got \[1, 2\]"),
        ({"class_weight": {0: -1}}, r"weights of at least 0, .* got \{0: -1\}"),
    ],
)
def test_bad_settings(settings, match, digits):
    with pytest.raises(ValueError, match=match):
        VarProClassifier(**{**SMALL, **settings}).fit(*digits[:2])


def test_no_bit_depends_on_jobs(digits, fitted):
    two = VarProClassifier(**SMALL, n_jobs=2).fit(*digits[:2])
    assert_array_equal(two.network_.W, fitted.network_.W)
    assert_array_equal(two.predict_proba(digits[2]), fitted.predict_proba(digits[2]))


# --- another scale than that of training ---------------------------------------------------


def test_rows_on_another_scale_are_refused_or_warned_of(digits, fitted):
    Z = digits[2]
    for method in (fitted.predict, fitted.predict_proba, fitted.decision_function):
        with pytest.raises(ValueError, match=r"X must be from 0 to 16 as in training, got"):
            method(10 * Z)
    with pytest.warns(
        IntensityWarning, match=r"X should be from 0 to 16 .* got images from 0 to 0"
    ):
        fitted.predict(Z / 255)
    with pytest.warns(IntensityWarning, match="X should be from 0 to 16"):
        fitted.predict(Z / 16)


def test_one_hot_pixel_does_not_refuse_the_batch(digits, fitted):
    Z = digits[2].copy()
    expected = fitted.predict(Z)
    Z[5, 30] = 65535
    with pytest.warns(IntensityWarning, match="got 6.554e[+]04 in image 5 .* 1 of 597 images"):
        found = fitted.predict(Z)
    assert_array_equal(np.delete(found, 5), np.delete(expected, 5))


# --- rows of pixels ----------------------------------------------------------------------


def test_bytes_and_their_intensities_are_the_same(digits):
    X, y, Z, _ = digits
    scaled = np.round(X / X.max() * 255)
    settings = {**SMALL, "scheme": "untrained"}  # training would make more of rounding errors
    masks = VarProClassifier(**SMALL).fit((X > 8).astype(np.uint8), y)
    assert masks.intensity_ == 1
    of_bytes = VarProClassifier(**settings).fit(scaled.astype(np.uint8), y)
    of_floats = VarProClassifier(**settings).fit(scaled, y)
    assert of_bytes.intensity_ == of_floats.intensity_ == 255
    pixels = np.round(Z / X.max() * 255)
    assert_allclose(
        of_bytes.predict_proba(pixels.astype(np.uint8)), of_floats.predict_proba(pixels), atol=1e-3
    )
    assert_allclose(
        of_bytes.predict_proba(pixels.astype(np.uint8)), of_bytes.predict_proba(pixels), atol=1e-5
    )


def test_shapes_of_images(digits):
    X, y, _, _ = digits
    with pytest.warns(UserWarning, match=r"filled up with 14 zeros to 8 x 8 pixels"):
        short = VarProClassifier(**SMALL).fit(X[:, :50], y)
    assert short.image_shape_ == (8, 8)
    assert short.network_.image_shape == (8, 8)
    wide = VarProClassifier(**SMALL, image_shape=(4, 16)).fit(X, y)
    assert wide.network_.image_shape == (4, 16)
    colour = VarProClassifier(**SMALL, image_shape=(2, 4, 8), units="tensor").fit(X, y)
    assert colour.network_.image_shape == (2, 4, 8)
    for classifier in (short, wide, colour):
        assert classifier.loo_error_ < 0.4


QUICK = {**SMALL, "max_nfev": 0}


def test_arrays_of_images_are_the_same_as_their_rows(digits):
    X, y, Z, _ = digits
    rows = VarProClassifier(**QUICK).fit(X, y)
    images = VarProClassifier(**QUICK).fit(X.reshape(-1, 8, 8), y)
    assert images.n_features_in_ == 64
    for again in (Z, Z.reshape(-1, 8, 8), list(Z.reshape(-1, 8, 8)), Z.reshape(-1, 8, 8, 1)):
        assert_array_equal(images.predict_proba(again), rows.predict_proba(Z))
    with pytest.raises(ValueError, match=r"Found array with 0 sample"):
        VarProClassifier(**QUICK).fit(X[:0].reshape(0, 8, 8), y[:0])
    with pytest.raises(ValueError, match=r"X must have images of \(8, 8\), as in training"):
        images.predict(Z.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match=r"X must be rows of one length, or images of one shape"):
        VarProClassifier(**QUICK).fit([X[0].reshape(8, 8), X[1].reshape(4, 16)], y[:2])
    colour = np.stack([X, 16 - X, X[:, ::-1]], axis=1).reshape(-1, 3, 8, 8)
    settings = {**QUICK, "units": "tensor"}
    first = VarProClassifier(**settings).fit(colour, y)
    last = VarProClassifier(**settings).fit(np.moveaxis(colour, 1, -1), y)
    assert first.image_shape_ == last.image_shape_ == (3, 8, 8)
    assert_array_equal(first.network_.W, last.network_.W)
    pixels = np.moveaxis(colour, 1, -1).reshape(len(colour), -1)
    assert_array_equal(last.predict_proba(pixels), first.predict_proba(colour))


def test_one_extreme_pixel_does_no_harm(digits):
    X, y, Z, z = digits
    hot, hot_to_predict = X.copy(), Z.copy()
    hot[5, 20] = 65_535
    hot_to_predict[3, 30] = -9_999
    settings = {"n_units": 12, "n_subnetworks": 1, "max_nfev": 2, "random_state": 0}
    with pytest.warns(UserWarning, match="row 5 of X is 65535 at pixel 20"):
        classifier = VarProClassifier(**settings).fit(hot, y)
    assert classifier.intensity_ == 16
    assert classifier.score(Z, z) > 0.95  # 0.3 where that pixel counts as 1
    with pytest.warns(IntensityWarning, match="from 0 to 16 as in training, got -9999 in image 3"):
        found = classifier.predict(hot_to_predict)
    same = np.arange(len(Z)) != 3
    assert_array_equal(found[same], classifier.predict(Z)[same])


def masked(values):
    return np.ma.masked_array(values, np.arange(np.size(values)).reshape(np.shape(values)) == 3)


def test_masked_values_are_refused_everywhere(digits, fitted):
    X, y, Z, _ = (part[:60] for part in digits)
    weights, numbers = np.ones(len(X)), y + 0.5
    classes = np.ma.masked_equal(np.arange(11), 10)
    regressor = VarProRegressor(**QUICK).fit(X, numbers)
    features = VarProFeatures(**QUICK).fit(X)
    calls = {
        "X": [
            lambda: VarProClassifier(**QUICK).fit(masked(X), y),
            lambda: VarProClassifier(**QUICK).fit(list(masked(X)), y),
            lambda: VarProClassifier(**QUICK).fit(masked(X.reshape(-1, 8, 8)), y),
            lambda: VarProRegressor(**QUICK).fit(masked(X), numbers),
            lambda: VarProFeatures(**QUICK).fit(masked(X)),
            lambda: fitted.predict(masked(Z)),
            lambda: fitted.predict_set(masked(Z)),
            lambda: fitted.predict_proba(masked(Z.reshape(-1, 8, 8))),
            lambda: regressor.predict(masked(Z)),
            lambda: features.transform(masked(Z)),
        ],
        "y": [
            lambda: VarProClassifier(**QUICK).fit(X, masked(y)),
            lambda: VarProClassifier(**QUICK).partial_fit(X, masked(y), classes=range(10)),
            lambda: VarProRegressor(**QUICK).fit(X, masked(numbers)),
            lambda: VarProFeatures(**QUICK).fit(X, masked(y)),
            lambda: VarProFeatures(**QUICK).fit(X, masked(numbers)),
        ],
        "sample_weight": [
            lambda: VarProClassifier(**QUICK).fit(X, y, sample_weight=masked(weights)),
            lambda: VarProRegressor(**QUICK).fit(X, numbers, sample_weight=masked(weights)),
        ],
        "classes": [lambda: VarProClassifier(**QUICK).partial_fit(X, y, classes=classes)],
    }
    for name, several in calls.items():
        for call in several:
            with pytest.raises(ValueError, match=f"{name} must have no masked values, got 1 of"):
                call()
    nothing_masked = np.ma.masked_array(Z)
    assert_array_equal(fitted.predict(nothing_masked), fitted.predict(Z))
    for call in (
        lambda: VarProClassifier(**QUICK).fit(X, y, sample_weight=weights + 1j),
        lambda: VarProClassifier(**QUICK).fit(X.reshape(-1, 8, 8) + 1j, y),
    ):
        with pytest.raises(ValueError, match="must be real, got complex128"):
            call()


@pytest.mark.parametrize("dtype", [str, object, float, bool], ids=str)
def test_labels_of_any_kind(dtype, digits, fitted):
    X, y, Z, _ = digits
    names = (
        np.array([f"digit {i}" for i in range(10)]).astype(dtype)
        if dtype in (str, object)
        else None
    )
    names = np.arange(10).astype(dtype) * (1 if dtype is bool else 3) if names is None else names
    classifier = VarProClassifier(**SMALL).fit(X, names[y])
    assert_array_equal(classifier.classes_, np.unique(names))
    found = classifier.predict(Z)
    assert found.dtype == names.dtype
    assert np.mean(found == names[fitted.predict(Z)]) > 0.9


def test_two_classes(digits):
    X, y, Z, z = digits
    classifier = VarProClassifier(**SMALL).fit(X[y < 2], y[y < 2])
    few = Z[z < 2]
    margin = classifier.decision_function(few)
    assert margin.shape == (len(few),)
    assert_array_equal(classifier.predict(few), (margin > 0).astype(int))
    assert_array_equal(classifier.predict_proba(few)[:, 1] > 0.5, margin > 0)


# --- weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["ridge", "softmax", "hinge"])
def test_weights_are_repetitions(layer, digits):
    """Of the output layer; the drawing of images knows nothing of weights."""
    X, y, _, _ = digits
    times = np.random.default_rng(0).integers(0, 4, len(X))
    settings = {
        **SMALL, "max_nfev": 0, "draw": "gaussian", "output_layer": layer, "output_penalty": 2.0,
        "standardise": False,
    }  # fmt: skip
    weighted = VarProClassifier(**settings).fit(X, y, sample_weight=times)
    images = (X / X[times > 0].max()).reshape(-1, 8, 8).astype(np.float32)
    network = weighted.network_
    mean = times[times > 0].mean()  # weights on any scale mean the same
    repeated = np.repeat(np.arange(len(X)), times)
    training = TrainingSet(images[repeated], y[repeated], 10)
    of_layer = OutputSettings(layer=layer, penalty=2.0 * mean)
    A = fit_output_layer(of_layer, network.units, network.W, training, Compute(1)).A
    Phi = network.units.features(network.W, images)
    expected, found = (Phi @ each[:-1] + each[-1] for each in (A, network.A))
    scale = 1e-3 if layer == "ridge" else 0.05  # columns are standardised without weights there
    assert_allclose(found, expected, atol=scale * np.abs(expected).max())


def test_weights_matter_in_training(digits, fitted):
    X, y, Z, z = digits
    heavy = np.where(y == 3, 50.0, 1.0)
    weighted = VarProClassifier(**SMALL).fit(X, y, sample_weight=heavy)
    assert not np.array_equal(weighted.network_.W, fitted.network_.W)
    threes = z == 3
    assert weighted.score(Z[threes], z[threes]) >= fitted.score(Z[threes], z[threes])
    by_class = VarProClassifier(**SMALL, class_weight={3: 50.0}).fit(X, y)
    assert_array_equal(by_class.network_.W, weighted.network_.W)
    assert_allclose(by_class.network_.A, weighted.network_.A)


def test_balanced_weights(digits):
    X, y, _, _ = digits
    few = (y != 3) | (np.arange(len(y)) % 8 == 0)
    balanced = VarProClassifier(**SMALL, class_weight="balanced").fit(X[few], y[few])
    counts = np.bincount(y[few])
    by_hand = VarProClassifier(**SMALL).fit(X[few], y[few], sample_weight=(1 / counts)[y[few]])
    assert_array_equal(balanced.network_.W, by_hand.network_.W)


@pytest.mark.parametrize("layer", ["ridge", "softmax"])
def test_weights_mean_the_same_on_any_scale(layer, digits):
    X, y, _, _ = digits
    plain, small, large = (
        VarProClassifier(**SMALL, output_layer=layer).fit(X, y, sample_weight=weights)
        for weights in (None, np.full(len(y), 2.0**-10), np.full(len(y), 2.0**10))
    )
    for weighted in (small, large):
        assert_allclose(weighted.network_.W, plain.network_.W, atol=1e-6)
        assert_allclose(weighted.network_.A, plain.network_.A, rtol=1e-3, atol=1e-4)


def test_weights_below_zero_are_refused(digits):
    X, y, _, _ = digits
    with pytest.raises(ValueError, match=r"sample_weight must be finite and not negative"):
        VarProClassifier(**SMALL).fit(X, y, sample_weight=np.where(y == 3, -1.0, 1.0))


def test_cross_entropy_takes_weights(digits):
    """Nobody has to know the loss of a recipe."""
    X, y, Z, z = digits
    X, y = X[:600], y[:600]
    few = {"n_units": 6, "max_nfev": 2, "n_rounds": 1, "images_per_subnetwork": 300}
    settings = {"recipe": "tiny", "random_state": 0, "n_copies": 0, **few}
    plain = VarProClassifier(**settings).fit(X, y)
    assert plain.config_.subnetworks.loss == "cross-entropy"
    equal = VarProClassifier(**settings).fit(X, y, sample_weight=np.full(len(y), 7.0))
    assert_array_equal(equal.W_, plain.W_)
    weights = np.where(y == 3, 50.0, 1.0)
    by_class = VarProClassifier(**settings, class_weight={3: 50.0}).fit(X, y)
    by_row = VarProClassifier(**settings).fit(X, y, sample_weight=weights)
    assert not np.array_equal(by_class.W_, plain.W_)
    assert_array_equal(by_class.W_, by_row.W_)
    bags = BaggingClassifier(VarProClassifier(**settings), n_estimators=2, random_state=0)
    assert bags.fit(X, y).score(Z, z) > 0.8


def test_a_fit_that_fails_leaves_the_last_one(digits, fitted):
    X, y, Z, _ = digits
    again = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match=r"training needs images of two classes"):
        again.fit(100 * X[:, :36], np.zeros(len(y)))
    assert_array_equal(again.predict(Z), fitted.predict(Z))
    for wrong in (y[:-1], np.where(y == 3, 77, y)[:-5]):
        with pytest.raises(ValueError, match=r"same length"):
            again.fit(X, wrong)
    assert_array_equal(again.predict(Z), fitted.predict(Z))
    batches = VarProClassifier(**SMALL).partial_fit(X[:300], y[:300], classes=np.arange(10))
    with pytest.raises(ValueError, match=r"same length"):
        batches.fit(X, y[:-1])
    assert batches.ridge_layer_.n_images == 300


# --- one batch after the other, warm start -----------------------------------------------


def test_partial_fit_keeps_the_units_and_refits_the_layer_on_all(digits):
    X, y, Z, z = digits
    classifier = VarProClassifier(**SMALL, output_penalty=1.0)
    with pytest.raises(ValueError, match=r"classes must be given in the first call"):
        classifier.partial_fit(X[:400], y[:400])
    classifier.partial_fit(X[:400], y[:400], classes=np.arange(10))
    W, first = classifier.network_.W, classifier.score(Z, z)
    assert classifier.network_.temperature is not None
    assert np.isfinite([classifier.loo_error_, classifier.calibration_error_]).all()
    classifier.partial_fit(X[400:800], y[400:800]).partial_fit(X[800:], y[800:])
    # What was calibrated on the first batch said nothing of the layer of all.
    assert classifier.network_.temperature is None
    assert np.isnan([classifier.loo_error_, classifier.calibration_error_]).all()
    with pytest.raises(ValueError, match=r"After a second partial_fit there are none: call fit"):
        classifier.predict_set(Z)
    assert_array_equal(classifier.network_.W, W)
    assert classifier.ridge_layer_.n_images == 1200
    assert classifier.score(Z, z) > first
    from varpro_nn.output.ridge_fit import fit_ridge

    images = (X / X[:400].max()).reshape(-1, 8, 8).astype(np.float32)
    training = TrainingSet(images, y, 10)
    A = fit_ridge(classifier.network_.units, W, training, Compute(), ridge=1.0).A
    assert_allclose(classifier.network_.A, A, atol=1e-3 * np.abs(A).max())
    with pytest.raises(ValueError, match=r"class_weight must be None with partial_fit"):
        VarProClassifier(**SMALL, class_weight="balanced").partial_fit(X, y, classes=np.arange(10))
    with pytest.raises(ValueError, match=r"y must hold labels among classes"):
        classifier.partial_fit(X[:5], y[:5] + 10)
    with pytest.raises(ValueError, match=r"classes must be those of the first call"):
        classifier.partial_fit(X[:5], y[:5], classes=[0, 1])


def test_partial_fit_with_one_class_at_first(digits):
    """Units learn nothing of it, so they stay random; the output layer sees all batches."""
    X, y, Z, z = digits
    ones, others = y == 1, y != 1
    classifier = VarProClassifier(**SMALL, output_penalty=1.0)
    with pytest.warns(UserWarning, match="only the class 1, .* stay random"):
        classifier.partial_fit(X[ones], y[ones], classes=np.arange(10))
    assert classifier.config_.subnetworks.scheme == "untrained"
    assert_array_equal(classifier.predict(Z), np.ones(len(Z)))
    classifier.partial_fit(X[others], y[others])
    assert classifier.score(Z, z) > 0.8
    drawn = VarProClassifier(**{**SMALL, "scheme": "untrained"}, output_penalty=1.0)
    drawn.fit(X[ones], np.arange(ones.sum()) % 2)
    assert_array_equal(classifier.network_.W, drawn.network_.W)
    with pytest.raises(ValueError, match="training needs images of two classes"):
        VarProClassifier(**SMALL).fit(X[ones], y[ones])


def test_partial_fit_with_a_layer_that_has_no_sums(digits):
    classifier = VarProClassifier(**SMALL, output_layer="softmax")
    with pytest.raises(ValueError, match=r"output_layer must be 'ridge' here, got 'softmax'"):
        classifier.partial_fit(*digits[:2], classes=np.arange(10))


def test_warm_start_goes_on(digits):
    X, y = digits[:2]
    cold = VarProClassifier(**{**SMALL, "images_per_subnetwork": 1200}).fit(X, y)
    warm = clone(cold).set_params(warm_start=True).fit(X, y)
    assert_array_equal(warm.network_.W, cold.network_.W)
    warm.fit(X, y)
    for later, earlier in zip(warm.history_, cold.history_, strict=True):
        assert later.history[0].cost == pytest.approx(earlier.cost, rel=1e-4)
        assert later.cost < earlier.cost
    with pytest.raises(ValueError, match=r"warm_start needs the same n_units as before, 30"):
        warm.set_params(n_units=60).fit(X, y)
    warm.set_params(n_units=30)
    with pytest.raises(
        ValueError, match=r"images of the same shape as before, \(8, 8\), got \(4, "
    ):
        warm.set_params(image_shape=(4, 16)).fit(X, y)
    with pytest.raises(ValueError, match=r"warm_start needs the same rank as before, 1, got 2"):
        warm.set_params(image_shape=None, rank=2).fit(X, y)


def test_a_second_layer(digits):
    X, y, Z, z = digits
    settings = {"first_units": 8, "first_window": 3, "first_grid": 6, "window": 2, "n_units": 8}
    settings |= {"n_subnetworks": 1, "max_nfev": 1, "random_state": 0, "n_components": 20}
    settings |= {"solver": "lsmr"}
    classifier = VarProClassifier("default", warm_start=True, **settings).fit(X, y)
    assert classifier.network_.units.below.whitening.shape == (20, 64)
    assert classifier.score(Z, z) > 0.85
    # Other rows, no seed: the first layer stays, so the weights mean what they meant.
    classifier.set_params(random_state=None, images_per_subnetwork=2000)
    classifier.fit(X, y)
    below, cost = classifier.network_.units.below.W, classifier.history_[0].cost
    rows = np.random.default_rng(0).permutation(len(X))
    classifier.fit(X[rows], y[rows])
    assert_array_equal(classifier.network_.units.below.W, below)
    assert classifier.history_[0].history[0].cost == pytest.approx(cost, rel=0.05)
    # The output layer is another one each time: it may see the layer below, or no longer.
    for cells in (2, 0):
        classifier.set_params(cells_below=cells).fit(X, y)
        assert classifier.network_.units.cells_below == cells
        assert len(classifier.network_.A) == 8 * 8 + cells**2 * 2 * 8 + 1
    for changed in ({"first_units": 9}, {"grid": 1}, {"middle_units": 4}):
        with pytest.raises(ValueError, match="warm_start with several layers needs the same"):
            copy.copy(classifier).set_params(**changed).fit(X, y)


# --- probabilities and sets --------------------------------------------------------------


@pytest.mark.parametrize("layer", ["ridge", "softmax", "hinge"])
def test_probabilities_are_calibrated(layer, digits):
    X, y, Z, z = digits
    classifier = VarProClassifier(**SMALL, output_layer=layer).fit(X, y)
    shares = classifier.predict_proba(Z)
    assert_allclose(shares.sum(axis=1), 1)
    assert_array_equal(classifier.classes_[shares.argmax(axis=1)], classifier.predict(Z))
    assert_allclose(classifier.predict_log_proba(Z), np.log(shares))
    assert classifier.calibration_error_ < 0.06
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == z
    assert abs(sure.mean() - right.mean()) < 0.06
    # Better than no temperature.
    from dataclasses import replace

    plain = replace(classifier.network_, temperature=None)
    images = (Z / classifier.intensity_).reshape(-1, 8, 8).astype(np.float32)
    losses = [
        -np.log(np.maximum(p[np.arange(len(z)), z], 1e-9)).mean()
        for p in (shares, plain.predict_proba(images))
    ]
    assert losses[0] < losses[1] + 0.02


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.3])
def test_label_sets_cover(alpha, digits):
    """On new images, within three standard errors and what the units know by heart."""
    X, y, Z, z = digits
    scheme = "untrained" if alpha < 0.1 else "independent"
    classifier = VarProClassifier(**SMALL, scheme=scheme).fit(X, y)
    sets = classifier.predict_set(Z, alpha=alpha)
    assert sets.dtype == bool
    assert sets.any(axis=1).all()
    covered = sets[np.arange(len(z)), z].mean()
    assert covered >= 1 - alpha - 3 * np.sqrt(alpha * (1 - alpha) / len(z)) - 0.02
    if alpha == 0.02:
        assert sets.sum(axis=1).mean() > classifier.predict_set(Z, 0.3).sum(axis=1).mean()


def test_label_sets_use_the_weights(digits):
    """Eights and nines count 20 times."""
    X, y, Z, _ = digits
    weights = np.where(y >= 8, 20.0, 1.0)
    classifier = VarProClassifier(**SMALL, scheme="untrained").fit(X, y, sample_weight=weights)
    weighted = classifier.predict_set(Z, alpha=0.1)
    proba, codes, of_rows = classifier._left_out
    assert set(np.round(of_rows / of_rows.min(), 6)) == {1.0, 20.0}
    own = proba[np.arange(len(codes)), codes]
    threshold = classifier.predict_proba(Z)[weighted].min()
    share = np.average(own < threshold, weights=of_rows)
    assert share == pytest.approx(0.1, abs=0.03)


def test_label_sets_need_outputs_that_saw_not_their_image(digits):
    classifier = VarProClassifier(**SMALL, output_layer="softmax", output_penalty=1.0).fit(
        *digits[:2]
    )
    with pytest.raises(ValueError, match=r"predict_set needs held-out outputs: leave output"):
        classifier.predict_set(digits[2])
    assert np.isnan(classifier.loo_error_)
    good = VarProClassifier(**SMALL).fit(*digits[:2])
    with pytest.raises(ValueError, match=r"alpha must be between 0 and 1, got 1"):
        good.predict_set(digits[2], alpha=1)


# --- among the tools of scikit-learn -----------------------------------------------------


def test_unfitted():
    with pytest.raises(NotFittedError):
        VarProClassifier().predict(np.zeros((2, 4)))


def test_pickled_it_predicts_the_same(digits, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.predict_proba(digits[2]), fitted.predict_proba(digits[2]))


def test_in_pipelines_and_searches(digits):
    X, y, Z, z = digits
    chain = make_pipeline(MinMaxScaler(), VarProClassifier(**SMALL))
    assert chain.fit(X, y).score(Z, z) > 0.8
    search = GridSearchCV(VarProClassifier(**SMALL), {"ridge": [0.1, 10.0]}, cv=2).fit(X, y)
    assert search.best_params_["ridge"] in (0.1, 10.0)
    assert cross_val_score(VarProClassifier(**SMALL), X, y, cv=3).min() > 0.7
    calibrated = CalibratedClassifierCV(VarProClassifier(**SMALL), cv=2).fit(X, y)
    assert calibrated.score(Z, z) > 0.8


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_metadata_routing(digits):
    X, y, _, _ = digits
    weights = np.where(y == 1, 0.0, 1.0)
    with config_context(enable_metadata_routing=True):
        classifier = (
            VarProClassifier(**SMALL)
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        scores = cross_val_score(classifier, X, y, cv=2, params={"sample_weight": weights})
    assert scores.min() > 0.7


def test_tables_with_names(digits):
    pandas = pytest.importorskip("pandas")
    X, y, _, _ = digits
    table = pandas.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    classifier = VarProClassifier(**SMALL).fit(table, pandas.Series(y))
    assert_array_equal(classifier.feature_names_in_, table.columns)
    assert classifier.predict(table).shape == (1200,)
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(table.rename(columns={"pixel 0": "other"}))


def test_its_features_suit_others(digits):
    X, y, Z, z = digits
    settings = {k: v for k, v in SMALL.items() if k != "class_weight"}
    chain = make_pipeline(VarProFeatures(**settings), LogisticRegression(max_iter=500))
    assert chain.fit(X, y).score(Z, z) > 0.85
    features = chain[0]
    assert features.transform(Z).shape == (len(Z), 30)
    assert list(features.get_feature_names_out())[:2] == ["varprofeatures0", "varprofeatures1"]
    tiny = VarProFeatures("tiny", n_units=6, max_nfev=1, random_state=0)
    for numbers in (None, y + 0.5):  # the recipe's cross-entropy is for labels
        assert tiny.fit(X, numbers).config_.subnetworks.loss == "squares"
    untrained = VarProFeatures(**settings).fit(X)
    assert not np.array_equal(untrained.W_, features.W_)
    assert untrained.history_ == []


def test_warnings_name_the_line_of_the_caller(digits):
    X, y = (part[:50] for part in digits[:2])
    X, y = X.copy(), y % 2
    X[3, 3] = 1e6
    with pytest.warns(UserWarning, match="row 3 of X is 1e") as of_fit:
        features = VarProFeatures(**QUICK).fit(X)
    with pytest.warns(IntensityWarning, match="in image 3") as of_transform:
        features.transform(X)
    with pytest.warns(UserWarning, match="row 3 of X is 1e"):
        classifier = VarProClassifier(**QUICK).fit(X, y)
    with pytest.warns(IntensityWarning, match="in image 3") as of_set:
        classifier.predict_set(X)
    names = [warning.filename for said in (of_fit, of_transform, of_set) for warning in said]
    assert names == [__file__] * 3


# --- validation ---------------------------------------------------------------------------

BRIEF = {"recipe": "bilinear", "n_units": 20, "n_subnetworks": 2, "max_nfev": 2, "random_state": 0}


@pytest.fixture(scope="module")
def lopsided(digits):
    """Names as labels, and a class with a third of the images of the others."""
    X, y, Z, z = digits
    few = (y != 3) | (np.arange(len(y)) % 3 == 0)
    names = np.array([f"digit {i}" for i in range(10)])
    return X[few], names[y[few]], Z, names[z]


def test_figures_of_the_images_held_out(lopsided):
    """Those of scikit-learn on the same images, which training has not seen."""
    X, y, _, _ = lopsided
    classifier = VarProClassifier(**BRIEF, validation_fraction=0.25).fit(X, y)
    seed = classifier.config_.seed
    held = held_out(np.unique(y, return_inverse=True)[1], 10, 0.25, seed)
    plain = VarProClassifier(**BRIEF).fit(X[~held], y[~held])
    assert_array_equal(plain.network_.A, classifier.network_.A)
    assert plain.validation_metrics_ is None
    figures, given, true = classifier.validation_metrics_, plain.predict(X[held]), y[held]
    assert figures["confusion_matrix"] == metrics.confusion_matrix(true, given).tolist()
    assert figures["accuracy"] == plain.score(X[held], true)
    assert figures["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(true, given)
    )
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(true, given, average="macro"))
    report = metrics.classification_report(true, given, output_dict=True)
    for name in np.unique(y):
        assert figures["precision"][name] == pytest.approx(report[name]["precision"])
        assert figures["recall"][name] == pytest.approx(report[name]["recall"])


def test_the_division_is_that_of_the_seed(lopsided):
    X, y, _, _ = lopsided
    found = [
        VarProClassifier(**{**BRIEF, "random_state": seed}, validation_fraction=0.2).fit(X, y)
        for seed in (0, 0, 1)
    ]
    assert found[0].validation_metrics_ == found[1].validation_metrics_
    assert found[0].validation_metrics_ != found[2].validation_metrics_
    by_class = np.sum(found[0].validation_metrics_["confusion_matrix"], axis=1)
    expected = np.round(0.2 * np.unique(y, return_counts=True)[1])
    assert_array_equal(by_class, expected)


def test_a_refit_sees_all_images(lopsided):
    X, y, _, _ = lopsided
    all_images = VarProClassifier(**BRIEF).fit(X, y)
    some = VarProClassifier(**BRIEF, validation_fraction=0.25).fit(X, y)
    both = VarProClassifier(**BRIEF, validation_fraction=0.25, refit=True).fit(X, y)
    assert_array_equal(both.network_.W, all_images.network_.W)
    assert_array_equal(both.network_.A, all_images.network_.A)
    assert both.validation_metrics_ == some.validation_metrics_
    assert both.loo_error_ == all_images.loo_error_ != some.loo_error_


def test_images_of_weight_0_are_not_held_out(lopsided):
    X, y, _, _ = lopsided
    weights = np.where(np.arange(len(y)) % 2, 2.0, 0.0)
    some = weights > 0
    settings = {**BRIEF, "validation_fraction": 0.25, "class_weight": "balanced"}
    one = VarProClassifier(**settings).fit(X, y, sample_weight=weights)
    two = VarProClassifier(**settings).fit(X[some], y[some], sample_weight=weights[some])
    assert one.validation_metrics_ == two.validation_metrics_
    assert_array_equal(one.network_.A, two.network_.A)


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, True, "0.2", float("nan")])
def test_shares_that_are_none(share, lopsided):
    X, y, _, _ = lopsided
    said = f"validation_fraction must be a number above 0 and below 1, or None, got {share!r}; 0.2"
    with pytest.raises(ValueError, match=said):
        VarProClassifier(**BRIEF, validation_fraction=share).fit(X, y)


def test_what_validation_needs(lopsided):
    X, y, _, _ = lopsided
    with pytest.raises(ValueError, match=r"refit=True needs validation_fraction, got None; set"):
        VarProClassifier(**BRIEF, refit=True).fit(X, y)
    with pytest.raises(ValueError, match=r"share of 0\.01 is less than an image of every class"):
        VarProClassifier(**BRIEF, validation_fraction=0.01).fit(X[:100], y[:100])
    with pytest.raises(ValueError, match=r"validation_fraction must be None with partial_fit"):
        VarProClassifier(**BRIEF, validation_fraction=0.2).partial_fit(X, y, classes=np.unique(y))


def test_a_warm_start_cannot_be_measured_on_rows_that_it_may_have_seen(lopsided):
    X, y, *_ = lopsided
    classifier = VarProClassifier(**BRIEF, validation_fraction=0.2, warm_start=True)
    with pytest.raises(ValueError, match=r"None with warm_start, got 0\.2: the last"):
        classifier.fit(X, y)


def test_scorers_of_scikit_learn(lopsided):
    X, y, Z, z = lopsided
    classifier = VarProClassifier(**BRIEF).fit(X, y)
    given = classifier.predict(Z)
    expected = {
        "balanced_accuracy": metrics.balanced_accuracy_score(z, given),
        "f1_macro": metrics.f1_score(z, given, average="macro"),
    }
    for name, score in expected.items():
        assert metrics.get_scorer(name)(classifier, Z, z) == pytest.approx(score)
    found = cross_validate(classifier, X, y, cv=2, scoring=list(expected))
    assert all((found[f"test_{name}"] > 0.7).all() for name in expected)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_one_hot_labels_are_refused_with_a_remedy(method):
    X = np.random.default_rng(0).random((6, 64))
    y = np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]
    with pytest.raises(
        ValueError, match=r"got shape \(6, 3\); if the rows are one-hot, pass numpy"
    ):
        getattr(VarProClassifier(), method)(X, y)


def test_many_classes_are_trained_with_squares():
    X, y = np.random.default_rng(0).random((210, 64)), np.arange(210) % 21
    few = {"recipe": "tiny", "n_units": 2, "n_subnetworks": 1, "max_nfev": 1, "n_rounds": 1}
    losses = [
        VarProClassifier(**few).fit(X[y < k], y[y < k]).config_.subnetworks.loss for k in (20, 21)
    ]
    assert losses == ["cross-entropy", "squares"]
