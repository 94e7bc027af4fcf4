"""Numbers without a type as pixels."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn.data.pixel_values import typed_pixels

PIXELS = np.array([[0.0, 3.0], [255.0, 7.0]])


def typed(*arrays):
    given = dict(zip("ab", map(np.asarray, arrays), strict=False))
    with warnings.catch_warnings(action="error"):
        return list(typed_pixels(given).values())


def test_whole_numbers_are_bytes():
    for pixels in (PIXELS, PIXELS.astype(np.int64), PIXELS.astype(np.uint16)):
        assert_array_equal(typed(pixels), PIXELS.astype(np.uint8)[None], strict=True)


def test_others_are_intensities():
    odd = ([[0.0, 1.0]], [[np.nan, 9]], [[np.inf, 9]])
    for pixels in (PIXELS / 255, PIXELS - 1, PIXELS / 255 * 2, *odd):
        assert_array_equal(typed(pixels), np.asarray(pixels)[None], strict=True)
    black = np.array([[0, 1]])
    for pixels in (black, black.astype(np.uint8), black == 1, black - 1):
        assert_array_equal(typed(pixels), pixels.astype(np.float32)[None], strict=True)


def test_training_and_test_set_are_on_one_scale():
    train, test = typed(PIXELS, [[0, 1]])
    assert train.dtype == test.dtype == np.uint8
    train, test = typed(PIXELS.astype(np.uint8), PIXELS / 2)
    assert (train.dtype, test.dtype) == (np.float32, np.float32)
    assert_array_equal(test, PIXELS / 2)


def test_what_is_no_real_number_is_for_others_to_refuse():
    for array in (PIXELS * 1j, np.array(["a"]), np.array([{}])):
        assert typed(array)[0] is array


def test_other_scales():
    with pytest.raises(ValueError, match=r"a and b must be whole .*up to 65535; divide them"):
        typed(PIXELS, [[0, 65535]])
    with pytest.warns(UserWarning, match="a are whole numbers up to 16, which are very dark"):
        assert typed_pixels({"a": np.array([[0, 16]])})["a"].dtype == np.uint8
