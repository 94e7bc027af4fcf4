"""Rows of numbers as images."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn.data.layout import Layout

# Images whose neighbouring pixels are alike, in three colours that are not.
COLOUR = 10 * np.arange(3)[:, None, None] + np.add.outer(np.arange(12), np.arange(12)) / 12
COLOUR = COLOUR * np.arange(1, 6)[:, None, None, None]


def of_pixels(rows, image_size=None):
    return Layout.of_pixels(rows, "x", image_size)


def test_grey():
    assert of_pixels(np.zeros((2, 64))) == Layout((8, 8), False, 64)
    assert of_pixels(np.zeros((2, 64)), (4, 16)) == Layout((4, 16), False, 64)
    assert of_pixels(np.zeros((2, 1))) == Layout((1, 1), False, 1)


def test_colours_follow_one_another_unless_pixels_are_smoother_together():
    first, last = COLOUR.reshape(5, -1), np.moveaxis(COLOUR, 1, -1).reshape(5, -1)
    for size in (None, (12, 12)):
        for rows, channels_last in ((first, False), (last, True)):
            layout = of_pixels(rows, size)
            assert layout == Layout((3, 12, 12), channels_last, 432)
            assert_array_equal(layout.images(rows), COLOUR)
    noise = np.random.default_rng(0).random((20, 432))
    assert not of_pixels(noise).channels_last
    assert not of_pixels(noise * np.nan).channels_last


def test_sides_the_wrong_way_round_are_said():
    grey = COLOUR[:, 0, :, :6].reshape(5, -1)
    assert of_pixels(grey, (12, 6)).image_shape == (12, 6)
    with pytest.warns(UserWarning, match=r"image_size=\(6, 12\) seems .* image_size=\(12, 6\)"):
        of_pixels(grey, (6, 12))


@pytest.mark.parametrize("d", [0, 2, 63, 65, 191])
def test_numbers_that_are_no_images(d):
    match = rf"x must be images, or rows of N x N numbers .* got {d} per row. .*--image-size ROWS"
    with pytest.raises(ValueError, match=match):
        of_pixels(np.zeros((2, d)))


@pytest.mark.parametrize("size", [(8, 9), (3, 8)])
def test_another_size(size):
    n = size[0] * size[1]
    with pytest.raises(ValueError, match=rf"rows of {n} numbers per image, or {3 * n} in colour"):
        of_pixels(np.zeros((2, 64)), size)
