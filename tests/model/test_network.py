from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import Network, patch_units, whole_image_units
from varpro_nn.data.preparation import Preparation
from varpro_nn.errors import IntensityWarning
from varpro_nn.model.network import probabilities
from varpro_nn.output import features
from varpro_nn.output.features import VIEWS
from varpro_nn.units import WholeImageUnits, learn_whitening


def make(rng, h=6, shape=(4, 5), classes=("a", "bb", "ccc"), **choices):
    units = whole_image_units("bilinear", shape, h, **choices)
    images = rng.random((50, *shape))
    W = units.init(images, rng).astype(np.float32)
    A = rng.standard_normal((h + 1, len(classes)))
    # As in a trained network, the outputs of an image sum to 1; and every class has its share.
    A -= A.mean(axis=1, keepdims=True)
    A[-1] = 1 / len(classes) - units.features(W, images).mean(axis=0) @ A[:-1]
    return Network(units, W, A, np.array(classes), shape)


def test_units_are_those_of_the_whole_network(rng):
    network = make(rng)
    fewer = replace(network.units, n_units=3)
    with pytest.raises(ValueError, match=r"units.n_units must be the number of rows of W, 6, got"):
        replace(network, units=fewer)
    images = rng.random((5, 4, 5))
    outputs = network.decision_function(images)
    part = network.with_weights(network.W[:3], network.A[[0, 1, 2, 6]])
    rest = network.with_weights(network.W[3:], network.A[3:])
    assert (part.units.n_units, rest.units.n_units) == (3, 3)
    joined = part.decision_function(images) + rest.decision_function(images) - network.A[-1]
    assert_allclose(joined, outputs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="W must be"):
        network.with_weights(network.W[:3], network.A)


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


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        ("signed", "bytes"), ("standardised", "bytes"), ("signed", "unit"), ("unit", "signed"),
        ("unit", "floats to 255"), ("bytes", "floats to 255"), ("dim bytes", "bytes"),
    ],
)  # fmt: skip
def test_images_on_another_scale_are_not_labelled_in_silence(trained, given, rng):
    pixels = rng.integers(0, 256, (40, 4, 5), dtype=np.uint8)
    pixels[:, 0, :2] = 0, 255
    scales = {
        "bytes": pixels, "unit": pixels / 255, "signed": pixels / 127.5 - 1,
        "standardised": (pixels - pixels.mean()) / pixels.std(), "floats to 255": pixels * 1.0,
        "dim bytes": pixels // 16,
    }  # fmt: skip
    network = replace(make(rng), preparation=Preparation.learn(scales[trained]))
    network.predict(scales[trained])
    with pytest.raises((ValueError, IntensityWarning), match="as in training"):
        network.predict(scales[given])


def test_pixels_divided_twice_are_warned_of(rng):
    images = rng.random((40, 4, 5))
    network = replace(make(rng), preparation=Preparation.learn(images))
    with pytest.warns(IntensityWarning, match=r"should be from 0.* to 0.* If the scale differs"):
        network.predict(images / 255)


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


def test_the_probabilities_are_those_of_the_output_layer(rng):
    network = make(rng)
    images = rng.random((20, 4, 5))
    outputs = network.decision_function(images)
    for layer in ("ridge", "softmax", "hinge"):
        one = replace(network, output_layer=layer)
        assert_array_equal(one.decision_function(images), outputs)
        assert_array_equal(one.predict_proba(images), probabilities(outputs, layer))
    assert_array_equal(network.predict_proba(images), probabilities(outputs))


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_probabilities_of_logits_by_hand(layer):
    outputs = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1, 1, 1]])
    expected = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1 / 3] * 3]
    for shift in (0, -50, 700, 1e6):  # a constant added to all outputs of an image
        found = probabilities(outputs + shift, layer)
        assert_allclose(found, expected, rtol=1e-12 * max(1, 100 * shift))
    extreme = probabilities(np.array([[1e5, 0.0, -1e5], [-1e5, -1e5, -2e5]]), layer)
    assert_allclose(extreme, [[1, 0, 0], [0.5, 0.5, 0]])


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_probabilities_of_logits_are_probabilities_and_keep_the_order(layer, rng):
    outputs = 3 * rng.standard_normal((500, 4))
    before = outputs.copy()
    P = probabilities(outputs, layer)
    assert P.min() > 0
    assert_allclose(P.sum(axis=1), 1)
    assert_array_equal(P.argsort(axis=1), outputs.argsort(axis=1))
    assert_array_equal(outputs, before)


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


# --- views -------------------------------------------------------------------------------


def make_patches(rng, h=6, shape=(7, 6), n_components=None, whitening=0.1, **choices):
    units = patch_units("dense", shape, h, **{"window": 3, "grid": 2, **choices})
    images = rng.random((30, *shape))
    if whitening is not None:
        units = learn_whitening(units, images, rng, epsilon=whitening, n_components=n_components)
    W = units.init(images, rng).astype(np.float32)
    A = rng.standard_normal((h * units.n_cells + 1, 3))
    return Network(units, W, A, np.arange(3), shape)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
@pytest.mark.parametrize(
    ("case", "shape"), [("whole", (4, 5)), ("patch", (7, 6)), ("patch", (3, 6, 6))]
)
def test_views_are_means_of_the_outputs(case, shape, dtype, rng):
    network = make(rng, shape=shape) if case == "whole" else make_patches(rng, shape=shape)
    images = (255 * rng.random((9, *shape))).astype(dtype)
    if dtype != np.uint8:
        images /= 255
    single = network.decision_function(images)
    expected = {
        "single": single,
        "flip": (single + network.decision_function(np.flip(images, axis=-1).copy())) / 2,
    }
    assert set(VIEWS) == set(expected)
    for views, outputs in expected.items():
        several = replace(network, views=views)
        assert_allclose(several.decision_function(images), outputs, rtol=1e-6, atol=1e-6)
        assert_array_equal(several.predict_codes(images), outputs.argmax(axis=1))
        if views != "single":
            assert np.abs(outputs - single).max() > 1e-3


@pytest.mark.parametrize("views", VIEWS)
def test_views_leave_the_images_and_the_bits_alone(views, rng):
    network = replace(make_patches(rng), views=views)
    images = rng.random((600, 7, 6))
    before = images.copy()
    one = network.decision_function(images)
    assert_array_equal(network.decision_function(images, n_jobs=2), one)
    assert_array_equal(images, before)


def test_a_mirrored_image_is_the_same_to_flipped_views(rng):
    network = replace(make_patches(rng), views="flip")
    images = rng.random((9, 7, 6))
    mirrored = network.decision_function(images[..., ::-1].copy())
    assert_allclose(mirrored, network.decision_function(images), rtol=1e-6, atol=1e-6)


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
    units = whole_image_units(kind, shape, h)
    network = Network(
        units, np.zeros((h, p), np.float32), np.zeros((h + 1, k)), np.arange(k), shape
    )
    assert network.n_parameters == h * p + (h + 1) * k
    table = dict(line.split("  ", 1) for line in network.summary().splitlines())
    table = {name.strip(): value.strip() for name, value in table.items()}
    assert table["units"].split()[:2] == ["1,200", kind]
    assert table["weights of a unit"] == f"{p:,}"
    assert table["unit weights"] == f"{h * p:,}"
    assert table["linear weights"] == f"{(h + 1) * k:,} (ridge)"
    assert table["all parameters"] == f"{h * p + (h + 1) * k:,}"
    assert table["images"] == " x ".join(map(str, shape))


@pytest.mark.parametrize(
    ("shape", "choices", "p", "m", "learnt"),
    [
        ((7, 6), {"whitening": None}, 9 + 1, 4, 0),
        ((7, 6), {}, 9 + 1, 4, 9 + 9 * 9),
        ((7, 6), {"n_components": 4}, 4 + 1, 4, 9 + 4 * 9),
        ((3, 6, 6), {"n_components": 5}, 5 + 1, 4, 27 + 5 * 27),
        ((7, 6), {"activation": "two-sided", "grid": 3}, 9 + 1, 18, 9 + 9 * 9),
    ],
)
def test_what_was_learnt_of_the_windows_is_counted(shape, choices, p, m, learnt, rng):
    network = make_patches(rng, h=6, shape=shape, **choices)
    total = 6 * p + (6 * m + 1) * 3 + learnt
    assert network.n_parameters == total
    table = [line.split("  ", 1) for line in network.summary().splitlines()]
    table = {name.strip(): value.strip() for name, value in table}
    assert table["units"].startswith("6 dense of 3 x 3 windows")
    assert table["cells of a unit"] == str(m)
    assert table["weights of a unit"] == str(p)
    assert table["unit weights"] == str(6 * p)
    assert table["linear weights"] == f"{(6 * m + 1) * 3} (ridge)"
    assert table["all parameters"] == str(total)
    parts = {f"{name} of windows" for name in ("centre", "whitening")}
    assert parts & set(table) == (parts if learnt else set())
    if learnt:
        assert sum(int(table[name]) for name in parts) == learnt


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


@pytest.mark.parametrize(
    "change", [{"output_layer": "x"}, {"views": "x"}, {"views": None}], ids=str
)
def test_unknown_names(change, rng):
    match = "output_layer must be one of ridge, softmax, hinge and views one of single, flip,"
    with pytest.raises(ValueError, match=match):
        replace(make(rng), **change)


def test_the_images_are_those_of_the_units(rng):
    with pytest.raises(ValueError, match=r"image_shape \(6, 7\) is not that of the units, \(7, 6"):
        replace(make_patches(rng), image_shape=(6, 7))


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 2, 4, 5), (3, 4, 6)])
def test_images_of_another_shape(shape, rng):
    with pytest.raises(ValueError, match=r"images must have shape \(n, 4, 5\), got"):
        make(rng).predict(np.zeros(shape))


def test_a_single_channel_may_have_an_axis(rng):
    network, images = make(rng), rng.random((3, 4, 5))
    outputs = network.decision_function(images)
    assert_array_equal(network.decision_function(images[:, None]), outputs)
    assert_array_equal(network.decision_function(images[..., None]), outputs)


def test_images_that_are_not_finite(rng):
    images = rng.random((3, 4, 5))
    images[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"images must be finite.*first: image 1"):
        make(rng).predict_proba(images)


def test_pixels_beyond_single_precision_give_no_silent_answer(rng):
    """1e300 is finite in double precision, and infinite in the precision of the features."""
    with pytest.raises(ValueError, match="images"):
        make(rng).predict(np.full((2, 4, 5), 1e300))


def test_a_senseless_number_of_threads(rng):
    with pytest.raises(ValueError, match=r"n_jobs must .*got 0"):
        make(rng).predict(rng.random((3, 4, 5)), n_jobs=0)


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
    with pytest.raises(ValueError, match=r"class \w+ can be saved if it is registered: write"):
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
