import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.data.images import check_images, intensities


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)], ids=["gray", "colour"])
def test_images_are_taken_as_they_are(shape, dtype):
    images = np.ones(shape, dtype=dtype)
    assert check_images(images) is images


@pytest.mark.parametrize("dtype", [np.float16, ">f4", ">f8"], ids=["half", "big32", "big64"])
def test_other_floating_point_becomes_single_precision(dtype):
    images = np.full((2, 3, 4), 0.25, dtype=dtype)
    checked = check_images(images)
    assert checked.dtype == np.float32
    assert_array_equal(checked, images)


def test_nested_lists_are_images():
    assert check_images([[[0.0, 1.0]]]).shape == (1, 1, 2)


@pytest.mark.parametrize("shape", [(3, 4), (1, 2, 3, 4, 5), (0, 3, 4), (2, 3, 0), (0,), ()])
def test_shapes_are_checked(shape):
    with pytest.raises(ValueError, match=r"pictures must be \(n, rows, columns\) or .*got shape"):
        check_images(np.zeros(shape), "pictures")


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8, bool, complex, object])
def test_types_are_checked(dtype):
    with pytest.raises(ValueError, match=r"images must be uint8 .* or floating point"):
        check_images(np.ones((2, 3, 4), dtype=dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_that_are_not_finite_are_counted(value, dtype):
    images = np.zeros((5, 2, 2), dtype=dtype)
    images[2, 0, 1] = images[2, 1, 1] = images[4, 0, 0] = value
    with pytest.raises(ValueError, match=r"in 2 of 5 images \(first: image 2\)"):
        check_images(images)


def test_infinities_of_both_signs_are_found():
    images = np.zeros((2, 1, 2))
    images[1] = [[np.inf, -np.inf]]
    with pytest.raises(ValueError, match=r"in 1 of 2 images \(first: image 1\)"):
        check_images(images)


def test_large_numbers_are_no_infinities_until_single_precision_makes_them_so():
    images = np.full((1, 2, 2), 3e38)  # their sum overflows in single precision
    assert check_images(images) is images
    with pytest.raises(
        ValueError, match=r"got more than 3.4e\+38 in 1 of 2 images \(first: image 1"
    ):
        check_images(np.concatenate([images, 2 * images]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_become_intensities_from_zero_to_one(dtype):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    before = images.copy()
    X = intensities(images, dtype)
    assert X.dtype == dtype
    assert X.min() == 0
    assert X.max() == 1
    # Two roundings of half a unit each, of 1 / 255 and of the product; the same everywhere.
    assert_allclose(X.ravel(), np.arange(256) / 255, rtol=2 * np.finfo(dtype).eps)
    assert_array_equal(images, before)


def test_floats_are_intensities_already():
    images = np.array([[[-1.0, 2.0, 255.0]]])
    assert intensities(images, np.float64) is images
    assert_array_equal(intensities(images), images.astype(np.float32), strict=True)


def test_channels_last_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"channels first.*got shape \(2, 8, 9, 3\).*moveaxis"):
        check_images(np.zeros((2, 8, 9, 3)))
    assert check_images(np.zeros((2, 3, 9, 3))).shape == (2, 3, 9, 3)
