"""Degenerate networks and data: diagnosed, never an exception or NaN."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from varpro_nn import RidgeLayer, configure, load, patch_units, run, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ClassSizeWarning, IntensityWarning
from varpro_nn.output.fit import fit_output_layer
from varpro_nn.output.output_layer import LAYERS
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.output.settings import OutputSettings

K = 10
H = 30


@pytest.fixture(scope="module")
def digits():
    train = load("digits").train
    return train.images[:450], train.labels[:450]


def ridge_of(units, W, images, labels, **options):
    return fit_ridge(units, W, TrainingSet(images, labels, K), Compute(), form="primal", **options)


def layer_of(name, units, W, images, labels):
    settings = OutputSettings(layer=name, standardise=True)
    return fit_output_layer(settings, units, W, TrainingSet(images, labels, K), Compute())


def duplicated(W):
    return np.concatenate([W, W[[3, 3, 7]]]), 3


def saturated(W):
    """Units that are 1 everywhere, to the last bit, and units that are 0."""
    W = W.copy()
    W[:4, -1] = 1e4
    W[4:6, -1] = -1e4
    return W, 6


def constant(W):
    W = W.copy()
    W[:5, :-1] = 0.0
    return W, 5


def of_all_scales(W):
    """Pre-activations a millionth of the others': columns hardly vary."""
    W = W.copy()
    W[:8, :-1] *= 1e-6
    return W, None


def mirrored(W):
    """tanh(-z) = -tanh(z); logistic(-z) = 1 - logistic(z): with a constant they are the same."""
    return np.concatenate([W, -W[[2, 5]]]), 2


CASES = [duplicated, saturated, constant, of_all_scales, mirrored]


@pytest.fixture(params=["whole image", "patches"])
def units(request):
    if request.param == "whole image":
        return whole_image_units("dense", (8, 8), H)
    return patch_units("dense", (8, 8), H, window=4, grid=2)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_rank_and_redundant_units_are_told(case, standardise, units, digits):
    dtype = np.float64 if units.n_cells == 1 else np.float32
    W, n_redundant = case(units.init(digits[0], np.random.default_rng(0)))
    report = ridge_of(units, W.astype(dtype), *digits, standardise=standardise)
    assert np.isfinite(report.A).all()
    assert np.isfinite(report.degrees_of_freedom)
    assert 1 <= report.degrees_of_freedom <= report.rank + 1.01
    if n_redundant is not None:
        assert len(report.redundant_units) == n_redundant
        assert report.rank == (len(W) - n_redundant) * units.n_cells
    # And they are what they are said to be: without them the fit is as good.
    rest = np.delete(W, report.redundant_units, axis=0)
    assert ridge_of(units, rest.astype(dtype), *digits).rank == len(rest) * units.n_cells or (
        case is of_all_scales
    )
    options = {"ridge": 1e-2, "standardise": standardise}
    whole = ridge_of(units, W.astype(dtype), *digits, **options).losses[0]
    without = ridge_of(units, rest.astype(dtype), *digits, **options).losses[0]
    assert_allclose(without, whole, rtol=2e-2)


def test_sound_units_are_not_called_redundant(units, digits):
    W = units.init(digits[0], np.random.default_rng(0)).astype(np.float32)
    for standardise in (False, True):
        report = ridge_of(units, W, *digits, standardise=standardise)
        assert report.redundant_units == ()
        assert report.rank == H * units.n_cells


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_layer_is_finite(case, layer, digits):
    units = whole_image_units("dense", (8, 8), H)
    W, _ = case(units.init(digits[0], np.random.default_rng(0)))
    fitted = layer_of(layer, units, W.astype(np.float32), *digits)
    assert np.isfinite(fitted.A).all()
    assert fitted.error_rate < 0.5


@pytest.mark.parametrize("layer", LAYERS)
def test_more_columns_than_images(layer, digits):
    units = whole_image_units("bilinear", (8, 8), 200)
    W = units.init(digits[0], np.random.default_rng(0)).astype(np.float32)
    few = digits[0][:60], digits[1][:60]
    fitted = layer_of(layer, units, W, *few)
    assert np.isfinite(fitted.A).all()
    if layer == "ridge":
        assert fitted.rank <= 59
        assert 1 <= fitted.degrees_of_freedom <= 60
    changing = RidgeLayer(units, W, K).add_images(*few)
    assert changing.path().rank <= 59
    assert np.isfinite(changing.solve()).all()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scheme", ["independent", "stages"])
def test_one_image_a_class(layer, scheme, digits):
    first = np.array([np.flatnonzero(digits[1] == c)[0] for c in range(K)])
    few = ImageSet(digits[0][first], digits[1][first])
    dataset = Dataset("few", np.arange(K), few, ImageSet(*digits))
    config = configure(
        "bilinear", n_units=8, n_subnetworks=2, scheme=scheme, output_layer=layer, max_nfev=4,
        images_per_subnetwork=10, n_stages=2 if scheme == "stages" else 1,
    )  # fmt: skip
    with pytest.warns(ClassSizeWarning, match="have fewer than 10 training images"):
        result = run(config, dataset, n_jobs=1)
    assert np.isfinite(result.network.A).all()
    if layer == "ridge":  # the others choose their penalty on the one image that is put aside
        assert result.metrics["test_accuracy"] > 0.2  # chance is 0.1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("recipe", ["bilinear", "tiny"])
def test_images_a_million_times_darker_or_brighter(recipe, scale, digits):
    images = (digits[0] * scale).astype(np.float32)
    part = ImageSet(images[:300], digits[1][:300]), ImageSet(images[300:], digits[1][300:])
    dataset = Dataset("scaled", np.arange(K), *part)
    config = configure(
        recipe, data="digits", n_units=10, n_subnetworks=1, images_per_subnetwork=300, n_rounds=1,
        max_nfev=4, seed=1,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(config, dataset, n_jobs=1)
    assert np.isfinite(result.network.A).all()
    said = [str(each.message) for each in caught if each.category is IntensityWarning]
    assert len(said) == (scale > 1)
    assert all("intensities reach 1e+06" in message for message in said)
    if scale > 1:  # in darker ones weight decay wins: intensities are to be about 1
        assert result.metrics["test_accuracy"] > 0.6
