from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import Network, features, whole_image_units
from varpro_nn.network import probabilities
from varpro_nn.units import WholeImageUnits


@pytest.fixture(params=[0, 1], ids=["seed0", "seed1"])
def rng(request):
    return np.random.default_rng(request.param)


def make(rng, h=6, shape=(4, 5), classes=("a", "bb", "ccc"), **choices):
    units = whole_image_units("bilinear", shape, h, **choices)
    images = rng.random((50, *shape))
    W = units.init(images, rng).astype(np.float32)
    A = rng.standard_normal((h + 1, len(classes)))
    # As in a trained network, the outputs of an image sum to 1; and every class has its share.
    A -= A.mean(axis=1, keepdims=True)
    A[-1] = 1 / len(classes) - units.features(W, images).mean(axis=0) @ A[:-1]
    return Network(units, W, A, np.array(classes), shape)


# --- outputs -----------------------------------------------------------------------------


def test_outputs_are_the_linear_layer_on_the_features(rng):
    network = make(rng)
    images = rng.random((7, 4, 5))
    Phi = network.units.features(network.W.astype(np.float64), images)
    expected = Phi @ network.A[:-1] + network.A[-1]
    assert_allclose(network.decision_function(images), expected, rtol=1e-5, atol=1e-5)


def test_labels_codes_and_probabilities_tell_the_same(rng):
    network = make(rng)
    images = rng.random((200, 4, 5))
    outputs = network.decision_function(images)
    codes = network.predict_codes(images)
    assert len(np.unique(codes)) > 1
    assert_array_equal(codes, outputs.argmax(axis=1))
    assert_array_equal(network.predict(images), network.classes[codes], strict=True)
    assert_array_equal(network.predict_proba(images).argmax(axis=1), codes)


def test_bytes_are_their_intensities(rng):
    network = make(rng)
    pixels = rng.integers(0, 256, (9, 4, 5), dtype=np.uint8)
    assert_allclose(
        network.decision_function(pixels), network.decision_function(pixels / 255), atol=1e-5
    )


@pytest.mark.parametrize("classes", [(7, 3), ("cat", "dog")])
def test_labels_have_the_type_of_the_classes(classes, rng):
    network = make(rng, classes=classes)
    predicted = network.predict(rng.random((50, 4, 5)))
    assert predicted.dtype == network.classes.dtype
    assert set(predicted.tolist()) <= set(classes)


def test_threads_change_no_bit(rng):
    network = make(rng, h=1100)  # three tiles
    images = rng.random((40, 4, 5))
    one = network.decision_function(images)
    for n_jobs in (2, 3):
        assert_array_equal(network.decision_function(images, n_jobs=n_jobs), one)


def test_an_image_does_not_see_the_others(rng, monkeypatch):
    network = make(rng)
    images = rng.random((600, 4, 5))
    together = network.decision_function(images)
    alone = np.concatenate([network.decision_function(images[i : i + 1]) for i in range(9)])
    assert_allclose(alone, together[:9], rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(features, "BLOCK_BYTES", 1)
    assert len(features.block_slices(600, 7)) == 3
    assert_allclose(network.decision_function(images), together, rtol=1e-5, atol=1e-5)


def test_images_are_not_changed(rng):
    network = make(rng)
    for images in (rng.random((5, 4, 5)), rng.random((5, 4, 5)).astype(np.float32)):
        before = images.copy()
        network.predict_proba(images)
        assert_array_equal(images, before)


def test_probabilities_by_hand():
    outputs = np.array([[0.5, -1.0, 1.5], [-1.0, -2.0, -3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    third = [1 / 3] * 3
    assert_allclose(probabilities(outputs), [[0.25, 0, 0.75], third, third, [0, 0, 1]])


def test_probabilities_are_probabilities_and_keep_the_largest(rng):
    outputs = rng.standard_normal((500, 4))
    before = outputs.copy()
    P = probabilities(outputs)
    assert P.min() >= 0
    assert_allclose(P.sum(axis=1), 1)
    some_positive = outputs.max(axis=1) > 0
    assert 0 < some_positive.sum() < 500
    assert_array_equal(P.argmax(axis=1)[some_positive], outputs.argmax(axis=1)[some_positive])
    assert_array_equal(outputs, before)


# --- counts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "p"),
    [
        ("quadratic", (3, 32, 32), 36),
        ("bilinear", (28, 20), 49),
        ("tensor", (3, 32, 32), 36),
        ("dense", (28, 28), 785),
    ],
)
def test_every_parameter_is_counted(kind, shape, p, rng):
    h, k = 1200, 10
    units = whole_image_units(kind, shape, 100)  # of one sub-network; the network has 1,200
    network = Network(
        units, np.zeros((h, p), np.float32), np.zeros((h + 1, k)), np.arange(k), shape
    )
    assert network.n_parameters == h * p + (h + 1) * k
    table = dict(line.split("  ", 1) for line in network.summary().splitlines())
    table = {name.strip(): value.strip() for name, value in table.items()}
    assert table["units"].split()[:2] == ["1,200", kind]
    assert table["weights of a unit"] == f"{p:,}"
    assert table["unit weights"] == f"{h * p:,}"
    assert table["linear weights"] == f"{(h + 1) * k:,}"
    assert table["all parameters"] == f"{h * p + (h + 1) * k:,}"
    assert table["images"] == " x ".join(map(str, shape))


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"A": np.zeros((6, 3))},
        {"A": np.zeros((7, 2))},
        {"W": np.zeros((6, 9), np.float32)},
        {"W": np.zeros((5, 10), np.float32)},
        {"classes": np.arange(4)},
    ],
    ids=["rows of A", "columns of A", "columns of W", "rows of W", "classes"],
)
def test_shapes_must_fit_together(change):
    with pytest.raises(ValueError, match=r"W must be \(h, 10\) and A \(h \* 1 \+ 1, .*got"):
        replace(make(np.random.default_rng(0)), **change)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 1, 4, 5), (3, 4, 6)])
def test_images_of_another_shape(shape, rng):
    with pytest.raises(ValueError, match=r"images must have shape \(n, \*\(4, 5\)\), got"):
        make(rng).predict(np.zeros(shape))


def test_images_that_are_not_finite(rng):
    images = rng.random((3, 4, 5))
    images[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"images must be finite.*first: image 1"):
        make(rng).predict_proba(images)


def test_pixels_beyond_single_precision_give_no_silent_answer(rng):
    """1e300 is finite in double precision, and infinite in the precision of the features."""
    with pytest.raises(ValueError, match="images"):
        make(rng).predict(np.full((2, 4, 5), 1e300))


@pytest.mark.parametrize("n_jobs", [0, -3])
def test_a_senseless_number_of_threads(n_jobs, rng):
    with pytest.raises(ValueError, match=f"n_jobs must .*got {n_jobs}"):
        make(rng).predict(rng.random((3, 4, 5)), n_jobs=n_jobs)


@dataclass(frozen=True)
class Doubled(WholeImageUnits):
    """A class of one's own that is a whole-image unit as well."""

    def features(self, W, inputs):
        return 2 * super().features(W, inputs)


class Own:
    n_units, n_cells, n_weights = 6, 1, 10


@pytest.mark.parametrize("units", [Own(), Doubled("bilinear", (4, 5), 6)], ids=["own", "derived"])
def test_units_of_ones_own_are_not_saved(units, rng, tmp_path):
    """A file would bring back other units than these."""
    network = replace(make(rng), units=units)
    with pytest.raises(ValueError, match="only the units of this package can be saved, got"):
        network.save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda network: {"W": network.W.astype(np.float64)},
        lambda network: {"A": network.A * np.nan},
        lambda network: {"A": network.A.astype(np.float32)},
        lambda network: {"classes": np.array([False, True, True])},
        lambda network: {"image_shape": (5, 4)},
    ],
    ids=["double W", "NaN", "single A", "boolean classes", "other image shape"],
)
def test_what_could_not_be_loaded_is_not_saved(change, rng, tmp_path):
    network = make(rng)
    with pytest.raises((ValueError, TypeError)):
        replace(network, **change(network)).save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())
