"""The range of intensities of training, and images that are on another scale."""

import warnings
from dataclasses import astuple

import numpy as np
import pytest
from numpy.testing import assert_allclose

from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.errors import IntensityWarning

SCALES = {
    "bytes": lambda X: X * 255,
    "unit": lambda X: X,
    "signed": lambda X: 2 * X - 1,
    "standardised": lambda X: (X - 0.13) / 0.31,
}


def strokes(n=60):
    """Images from 0 to 1: a bright bar of another strength in each."""
    images = np.zeros((n, 6, 5))
    images[:, 1:5, 2] = np.linspace(0.8, 1.0, n)[:, None]
    return images


def test_range_of_sound_images_is_that_of_their_extremes(rng):
    images = rng.random((100, 4, 4))
    low, dark, bright, high = astuple(IntensityRange.of(images))
    minima, maxima = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    assert (low, high) == (images.min(), images.max())
    assert_allclose([dark, bright], [np.quantile(minima, 0.95), np.quantile(maxima, 0.05)])


@pytest.mark.parametrize("value", [16000.0, -9999.0, 65535.0])
def test_one_pixel_does_not_make_the_range(value):
    images = 16 * strokes()
    sound = IntensityRange.of(images)
    images[7, 3, 3] = value
    found = IntensityRange.of(images)
    assert (found.low, found.high) == (sound.low, sound.high)
    with pytest.warns(IntensityWarning, match="in image 7 and .* 1 of 60 images"):
        found.check(images)


def test_images_without_anything_do_not_hide_the_others():
    images = np.zeros((100, 4, 4))
    images[::20, 1, 1] = 1.0
    assert IntensityRange.of(images).high == 1.0


def test_images_on_disk_and_bytes(tmp_path):
    from varpro_nn.data.folder import images_in

    images = np.round(255 * strokes()).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert IntensityRange.of(images_in(tmp_path / "images.npy")) == IntensityRange.of(images)
    assert IntensityRange.of(images).high == 255


@pytest.mark.parametrize("scale", SCALES)
def test_images_on_the_scale_of_training_pass(scale):
    images = SCALES[scale](strokes())
    reached = IntensityRange.of(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reached.check(images)
        for image in images:
            reached.check(image[None])
        reached.check(np.full((3, 6, 5), images.min()))  # nothing is shown


@pytest.mark.parametrize(("trained", "given"), [(a, b) for a in SCALES for b in SCALES if a != b])
def test_every_other_scale_is_refused_or_warned_of(trained, given):
    reached, images = IntensityRange.of(SCALES[trained](strokes())), SCALES[given](strokes())
    with pytest.raises((ValueError, IntensityWarning), match=r"X (must|should) be from .* got "):
        reached.check(images, "X")


@pytest.mark.parametrize("factor", [10.0, 2.0])
def test_too_bright_is_an_error(factor):
    with pytest.raises(ValueError, match=rf"got {factor * 0.8:.4g} in image 0 .* 60 of 60 images"):
        IntensityRange.of(strokes()).check(factor * strokes())


def test_one_hot_pixel_is_a_warning_with_image_and_value():
    images = strokes()
    images[7, 0, 0] = 300.0
    with pytest.warns(IntensityWarning, match="got 300 in image 7 and .* 1 of 60 images"):
        IntensityRange.of(strokes()).check(images)


@pytest.mark.parametrize(
    "values",
    [(0.0, 0.0, 1.0, np.inf), (0.0, 0.0, 1.0, np.nan), (1.0, 0.0, 0.0, 2.0), (0.0, 0.0, 3.0, 2.0),
     (0, 0.0, 1.0, 1.0), (0.0, 0.0, "1", 1.0)],
)  # fmt: skip
def test_what_is_no_range(values):
    with pytest.raises(ValueError, match="must be finite and in order"):
        IntensityRange(*values)
