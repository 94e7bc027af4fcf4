"""Rows of pixels as images: the order of their pixels, and the scale of their intensities."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits

from varpro_nn.estimators.rows import (
    Scale,
    flat,
    layout_of_images,
    layout_of_rows,
    warn_if_another_fits,
)

COLOUR = np.arange(2 * 3 * 5 * 6).reshape(2, 3, 5, 6)
"""Two images with their channels first; each pixel has a number of its own."""
LAST = np.moveaxis(COLOUR, 1, -1)


# --- the order of pixels -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "image_shape"),
    [
        (COLOUR, None),
        (COLOUR, (3, 5, 6)),
        (COLOUR, [np.int64(3), 5, 6]),
        (LAST, None),
        (LAST, (3, 5, 6)),
        (LAST, (5, 6, 3)),
    ],
)
def test_arrays_of_images_are_taken_as_they_are(X, image_shape):
    layout = layout_of_images(X.shape, image_shape)
    assert layout.image_shape == (3, 5, 6)
    assert_array_equal(layout.images(flat(layout, X)), COLOUR)
    # What is predicted may be in either order, or in rows of the order of training.
    for other in (COLOUR, LAST):
        assert_array_equal(layout.images(flat(layout, other)), COLOUR)
    assert_array_equal(layout.images(X.reshape(2, -1)), COLOUR)


@pytest.mark.parametrize("image_shape", [(3, 5, 6), (5, 6, 3)])
def test_rows_are_in_the_order_of_the_shape_that_was_given(image_shape):
    rows = (COLOUR if image_shape == (3, 5, 6) else LAST).reshape(2, -1)
    layout = layout_of_rows(90, image_shape)
    images = layout.images(rows)
    assert layout.image_shape == (3, 5, 6)
    assert_array_equal(images, COLOUR)
    assert images.flags.c_contiguous


def test_a_single_channel_may_have_an_axis_or_none():
    grey = np.arange(60).reshape(2, 5, 6)
    for X, shape in ((grey, (5, 6)), (grey[:, None], (1, 5, 6)), (grey[..., None], (1, 5, 6))):
        layout = layout_of_images(X.shape, None)
        assert layout.image_shape == shape
        for other in (grey, grey[:, None], grey[..., None]):
            assert_array_equal(layout.images(flat(layout, other)), grey.reshape(2, *shape))


@pytest.mark.parametrize("shape", [(9, 20, 20, 8), (9, 8, 20, 20), (9, 3, 5, 4)])
def test_channels_that_may_be_first_or_last_are_asked_for(shape):
    with pytest.raises(ValueError, match=r"may have its channels first or last: give image_shape"):
        layout_of_images(shape, None)
    first = layout_of_images(shape, shape[1:])
    last = layout_of_images(shape, (shape[3], *shape[1:3]))
    assert (first.channels_last, last.channels_last) == (False, True)


def test_arrays_that_hold_no_such_images():
    with pytest.raises(ValueError, match=r"X must be rows of pixels .*got shape \(2, 3, 4, 5, 6\)"):
        layout_of_images((2, 3, 4, 5, 6), None)
    with pytest.raises(ValueError, match=r"images of image_shape=\(5, 5\), got shape \(2, 5, 6\)"):
        layout_of_images((2, 5, 6), (5, 5))
    layout = layout_of_images(LAST.shape, None)
    with pytest.raises(ValueError, match=r"images of \(5, 6, 3\), as in training, got .*5, 5, 3\)"):
        flat(layout, LAST[:, :, :5])


@pytest.mark.parametrize("shape", ["8x8", 8, (8,), (-8, -8), (8.0, 8.0), (8, 9), (2, 2, 4, 4)])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match=r"image_shape must be a tuple .*of 64 pixels in all, got"):
        layout_of_rows(64, shape)


@pytest.mark.parametrize(
    ("d", "match"),
    [
        (2914, r"filled up with 2 zeros to 54 x 54 pixels. .* such as \(47, 62\) or \(62, 47\)"),
        (1200, r"\(20, 20, 3\) if the colours of a pixel stand together, \(3, 20, 20\) if one"),
        (59, r"filled up with 5 zeros to 8 x 8 pixels. Give image_shape=\(rows, columns\)"),
    ],
)
def test_rows_that_are_filled_up_are_said(d, match):
    with pytest.warns(UserWarning, match=match):
        layout = layout_of_rows(d, None)
    rows = np.ones((2, d))
    side = layout.image_shape[0]
    expected = np.arange(side**2) < d
    assert_array_equal(layout.images(rows).reshape(2, -1), np.stack([expected, expected]))


def smooth(*shape: int) -> np.ndarray:
    """Images whose neighbouring pixels are alike, in three colours that are not."""
    rng = np.random.default_rng(0)
    n, c, r, k = shape
    slopes = rng.standard_normal((2, n, c, 1, 1))
    return rng.standard_normal((n, c, 1, 1)) + (
        slopes[0] * np.linspace(0, 3, r)[:, None] + slopes[1] * np.linspace(0, 3, k)
    )


def test_a_shape_that_scrambles_pixels_is_said():
    images = smooth(20, 3, 8, 10)
    planes, pixels = images.reshape(20, -1), np.moveaxis(images, 1, -1).reshape(20, -1)
    grey = images[:, 0].reshape(20, -1)
    noise = np.random.default_rng(0).standard_normal(planes.shape)
    right = [(planes, (3, 8, 10)), (pixels, (8, 10, 3)), (grey, (8, 10))]
    with warnings.catch_warnings(action="error"):
        for rows, shape in [*right, (noise, (3, 8, 10)), (noise, (8, 10, 3))]:
            warn_if_another_fits(layout_of_rows(rows.shape[1], shape), rows)
    wrong = [(pixels, (3, 8, 10)), (planes, (8, 10, 3)), (grey, (10, 8))]
    for (rows, shape), (_, better) in zip(wrong, [right[1], right[0], right[2]], strict=True):
        match = rf"image_shape=\({shape[0]}, .* wrong: .*image_shape=\({better[0]}, {better[1]}"
        with pytest.warns(UserWarning, match=match):
            warn_if_another_fits(layout_of_rows(rows.shape[1], shape), rows)


# --- the scale ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[:300]


def test_the_scale_is_the_largest_value(digits):
    assert Scale.of(digits) == Scale(16.0)
    assert Scale.of(-2 * digits) == Scale(32.0)
    assert Scale.of((digits * 15).astype(np.uint8)) == Scale(240.0)
    assert Scale.of(np.zeros((3, 4))) == Scale(1.0)
    assert Scale.of(np.full((3, 4), -7.0)) == Scale(7.0)


@pytest.mark.parametrize("value", [500.0, 16_000.0, -9_999.0, 65_535.0])
def test_a_few_extreme_values_do_not_set_the_scale(value, digits):
    X = digits.copy()
    X[5, 20] = value
    X[7:20, 3] = value
    scale = Scale.of(X)
    assert scale == Scale(16.0)
    numbers = np.arange(1000, 1300)
    match = rf"row 1005 of X is {value:.6g} at pixel 20, and 14 rows have values beyond 160\."
    with pytest.warns(UserWarning, match=match):
        scale.warn_of_extremes(X, numbers)
    images = scale.apply(X)
    assert images[5, 20] == 10 * np.sign(value)
    assert_array_equal(images[20:], (digits[20:] / 16).astype(np.float32))


def test_neither_does_a_pixel_that_is_always_extreme(digits):
    X = digits.copy()
    X[:, 0] = 65_535
    assert Scale.of(X) == Scale(16.0)


def test_rare_pixels_of_standardised_columns_do_not(digits):
    """Columns of variance 1, one of them zero but for one image."""
    X = (digits - digits.mean(axis=0)) / (digits.std(axis=0) + 1e-9)
    assert np.abs(X).max() > 15
    scale = Scale.of(X)
    assert scale.intensity == np.quantile(np.abs(X).max(axis=1), 0.9, method="lower")
    assert scale.intensity < 6
