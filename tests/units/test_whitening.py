import itertools

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.units.patches import PatchUnits
from varpro_nn.units.whitening import learn_whitening

SHAPES = pytest.mark.parametrize("shape", [(9, 8), (2, 9, 8)], ids=["gray", "colour"])
CASES = pytest.mark.parametrize(
    ("shape", "contrast"), [((9, 8), None), ((2, 9, 8), 0.01)], ids=["gray", "colour-contrast"]
)
CONTRAST = pytest.mark.parametrize("contrast", [None, 0.01], ids=["as_is", "contrast"])


def pictures(rng, shape, n=200):
    """Correlated pixels with a mean that is not zero."""
    images = rng.random((n, *shape))
    return (images + np.roll(images, 1, -1) + 0.5 * np.roll(images, 1, -2)) / 2.5


def dense(shape, contrast=None, h=4):
    return PatchUnits("dense", shape, h, window=3, grid=2, contrast=contrast)


def windows_of(units, images):
    """All windows, normalised but not whitened, (windows, numbers)."""
    view = sliding_window_view(images, (3, 3), axis=(-2, -1))  # (n, ..., rows, columns, 3, 3)
    if images.ndim == 4:
        view = np.moveaxis(view, 1, 3)
    P = view.reshape(-1, units.windows.n_pixels)
    if units.contrast is not None:
        P = P - P.mean(axis=1, keepdims=True)
        P = P / np.sqrt((P**2).mean(axis=1, keepdims=True) + units.contrast)
    return P


def covariance(P):
    away = P - P.mean(axis=0)
    return away.T @ away / len(P)


@pytest.mark.seeds(2)
@SHAPES
@pytest.mark.parametrize("n_components", [None, 4], ids=["zca", "pca4"])
def test_windows_drawn_anew_are_white(n_components, shape, rng):
    units = dense(shape)
    made = learn_whitening(
        units, pictures(rng, shape, 1000), rng, epsilon=1e-9, n_components=n_components
    )
    n = 1000
    P = windows_of(units, pictures(rng, shape, n))
    white = (P - made.centre) @ made.whitening.T
    assert white.shape[1] == (n_components or units.windows.n_pixels)
    # Images are independent, windows of one are not. The centre and the whitening have the same
    # error as the estimates here, hence sqrt(2); six standard errors have a probability of 2e-9.
    by_image = white.reshape(n, -1, white.shape[1])
    means = by_image.mean(axis=1)
    moments = by_image.swapaxes(1, 2) @ by_image / by_image.shape[1]
    six_errors = 6 * np.sqrt(2 / n)
    assert (np.abs(means.mean(axis=0)) < six_errors * means.std(axis=0)).all()
    away = np.abs(moments.mean(axis=0) - np.eye(white.shape[1]))
    assert (away < six_errors * moments.std(axis=0)).all()
    assert six_errors * max(means.std(), moments.std(axis=0).max()) < 0.3
    # and they were not before
    assert np.abs(covariance(P) / P.var() - np.eye(P.shape[1])).max() > 0.3


@CONTRAST
@SHAPES
def test_zca_is_the_inverse_root_of_the_covariance(shape, contrast, rng):
    """Symmetric; its square undoes the covariance plus epsilon times the mean variance."""
    epsilon = 0.3
    images = pictures(rng, shape, 2000)
    units = dense(shape, contrast)
    made = learn_whitening(units, images, rng, epsilon=epsilon)
    C = covariance(windows_of(units, images))
    shifted = C + epsilon * np.trace(C) / len(C) * np.eye(len(C))
    assert_allclose(made.whitening, made.whitening.T, rtol=1e-9, atol=1e-10)
    assert_allclose(made.whitening @ made.whitening @ shifted, np.eye(len(C)), atol=0.05)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_unit_of_intensities_does_not_matter(scale, rng):
    """Variances below 1e-12 were taken for rounding, and dark images were not whitened."""
    images, units, seed = pictures(rng, (9, 8)), dense((9, 8)), int(rng.integers(2**31))
    made, scaled = (
        learn_whitening(units, given, np.random.default_rng(seed), epsilon=0.1)
        for given in (images, scale * images)
    )
    assert_allclose(scale * scaled.whitening, made.whitening, rtol=1e-9, atol=1e-12)
    assert_allclose(scaled.centre, scale * made.centre, rtol=1e-12)


@CASES
def test_pca_is_zca_in_other_axes(shape, contrast, rng):
    """All components: an orthogonal matrix away; fewer: the first of them."""
    images, units, seed = pictures(rng, shape), dense(shape, contrast), int(rng.integers(2**31))
    d = units.windows.n_pixels
    zca, pca, some = (
        learn_whitening(
            units, images, np.random.default_rng(seed), epsilon=0.1, n_components=components
        ).whitening
        for components in (None, d, 3)
    )
    turn = zca @ np.linalg.inv(pca)
    assert_allclose(turn @ turn.T, np.eye(d), atol=1e-8)
    assert_array_equal(some, pca[:3])


@CASES
def test_components_are_by_variance_and_have_a_sign(shape, contrast, rng):
    units = dense(shape, contrast)
    d = units.windows.n_pixels
    images = pictures(rng, shape)
    made = learn_whitening(units, images, rng, epsilon=0.1, n_components=d)
    scale = np.linalg.norm(made.whitening, axis=1)
    assert (np.diff(scale) >= -1e-9 * scale[:-1]).all()  # of large variance, small scale
    largest = made.whitening[np.arange(d), np.abs(made.whitening).argmax(axis=1)]
    assert (largest > 0).all()
    variance = (windows_of(units, images) @ (made.whitening / scale[:, None]).T).var(axis=0)
    assert_allclose(variance, np.sort(variance)[::-1], rtol=0.1, atol=1e-9)


@pytest.mark.parametrize("epsilon", [1e-3, 10.0])
def test_epsilon_is_relative(epsilon, rng):
    """Images in other units: the filters see the same."""
    images, seed, shape = pictures(rng, (9, 8)), int(rng.integers(2**31)), (9, 8)
    one, other = (
        learn_whitening(dense(shape), X, np.random.default_rng(seed), epsilon=epsilon)
        for X in (images, 100 * images)
    )
    assert_allclose(other.whitening, one.whitening / 100, rtol=1e-8, atol=1e-12)
    assert_allclose(other.centre, 100 * one.centre, rtol=1e-12)
    W = one.init(images, rng)
    assert_allclose(other.features(W, 100 * images), one.features(W, images), rtol=1e-8)


@CASES
@pytest.mark.parametrize("n_components", [None, 5], ids=["zca", "pca"])
def test_folded_into_filters_it_is_the_same(n_components, shape, contrast, rng):
    """<F, whitened window> + b for each window, one cell for each place."""
    images = pictures(rng, shape, 6)
    units = PatchUnits("dense", shape, 4, 3, grid=6, activation="tanh", contrast=contrast)
    made = learn_whitening(units, images, rng, epsilon=0.05, n_components=n_components)
    W = made.init(images, rng)
    white = (windows_of(units, images) - made.centre) @ made.whitening.T
    # Seven rows of places make six cells, one of them of two rows.
    z = (white @ W[:, :-1].T + W[:, -1]).reshape(6, 7, 6, 4)
    bounds = made.windows.bounds(0)
    cells = [np.tanh(z)[:, a:b].mean(axis=1) for a, b in itertools.pairwise(bounds)]
    expected = np.stack(cells, axis=1).reshape(6, -1)
    assert_allclose(made.features(W, images), expected, rtol=1e-9, atol=1e-12)


def test_the_same_generator_gives_the_same(rng):
    images, seed = pictures(rng, (9, 8)), int(rng.integers(2**31))
    stored = images.copy()
    one, same, other = (
        learn_whitening(dense((9, 8)), images, np.random.default_rng(s), epsilon=0.1)
        for s in (seed, seed, seed + 1)
    )
    assert_array_equal(one.whitening, same.whitening)
    assert_array_equal(one.centre, same.centre)
    assert not np.array_equal(one.whitening, other.whitening)
    assert_array_equal(images, stored)


def test_all_but_the_whitening_stays(rng):
    units = PatchUnits(
        "bilinear", (9, 8), 5, 3, 2, 3, rank=2, activation="two-sided", gain=0.7, threshold=0.2,
        contrast=0.3,
    )  # fmt: skip
    made = learn_whitening(units, pictures(rng, (9, 8)), rng, epsilon=0.1)
    assert made.spec() == units.spec()
    assert units.whitening is None
    again = learn_whitening(made, pictures(rng, (9, 8)), rng, epsilon=0.1)
    # Learnt from the windows as they are, not from whitened ones.
    assert_allclose(
        again.whitening, made.whitening, rtol=0.2, atol=0.2 * np.abs(made.whitening).max()
    )


@pytest.mark.parametrize(
    ("kind", "choices", "message"),
    [
        ("dense", {"n_components": 0}, "n_components must be 1 to 9, for dense units, got 0"),
        ("dense", {"n_components": 10}, "n_components must be 1 to 9, for dense units, got 10"),
        ("bilinear", {"n_components": 3}, "n_components must be .* got 3 for bilinear units"),
        ("quadratic", {"n_components": 3}, "n_components must be .* got 3 for quadratic units"),
        ("dense", {"epsilon": 0.0}, "epsilon must be positive and finite, got 0"),
        ("dense", {"epsilon": -0.1}, "epsilon must be positive and finite, got -0.1"),
        ("dense", {"epsilon": float("nan")}, "epsilon must be positive and finite, got nan"),
        ("dense", {"epsilon": float("inf")}, "epsilon must be positive and finite, got inf"),
    ],
    ids=["none", "too_many", "bilinear", "quadratic", "zero", "negative", "nan", "infinite"],
)
def test_choices_are_checked(kind, choices, message, rng):
    units = PatchUnits(kind, (9, 8), 2, window=3)
    with pytest.raises(ValueError, match=message):
        learn_whitening(units, pictures(rng, (9, 8)), rng, **{"epsilon": 0.1, **choices})


def test_images_of_another_shape_are_refused(rng):
    with pytest.raises(ValueError, match=r"images of shape \(9, 8\)"):
        learn_whitening(dense((9, 8)), np.zeros((3, 8, 9)), rng, epsilon=0.1)
