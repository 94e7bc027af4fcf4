import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import Network, RidgeLayer, whole_image_units
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.images import (
    check_images,
    check_labels,
    check_targets,
    check_weights,
    intensities,
)
from varpro_nn.data.training_set import TrainingSet


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


def test_booleans_are_black_and_white(rng):
    images = rng.random((2, 3, 4)) > 0.5
    assert_array_equal(check_images(images), images.astype(np.float32), strict=True)


def test_nested_lists_are_images():
    assert check_images([[[0.0, 1.0]]]).shape == (1, 1, 2)


@pytest.mark.parametrize("shape", [(3, 4), (1, 2, 3, 4, 5), (0, 3, 4), (2, 3, 0), (0,), ()])
def test_shapes_are_checked(shape):
    with pytest.raises(ValueError, match=r"pictures must be \(n, rows, columns\) or .*got shape"):
        check_images(np.zeros(shape), "pictures")


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8, object])
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


@pytest.mark.parametrize(
    "shape",
    [(2, 8, 9, 3), (2, 5, 5, 4), (2, 28, 28, 1), (2, 9, 8, 2)],
    ids=["colour", "alpha", "grey", "two"],
)
def test_channels_that_come_last_are_moved(shape, rng):
    images = rng.integers(256, size=shape, dtype=np.uint8)
    checked = check_images(images)
    assert_array_equal(checked, np.moveaxis(images, -1, 1))
    assert checked.flags.c_contiguous  # sums of products depend on the order in memory


def test_many_channels_that_may_come_last_are_said():
    with pytest.warns(UserWarning, match=r"taken as 64 channels of 64 x 13 pixels; .*moveaxis"):
        assert check_images(np.zeros((2, 64, 64, 13))).shape == (2, 64, 64, 13)
    assert check_images(np.zeros((2, 13, 64, 64))).shape == (2, 13, 64, 64)
    assert check_images(np.zeros((2, 64, 64, 13)), "images", (13, 64, 64)).shape[1] == 13


@pytest.mark.parametrize("shape", [(2, 3, 9, 3), (2, 2, 8, 1), (2, 2, 8, 3), (2, 2, 8, 4)])
def test_narrow_images_of_few_channels_have_them_first(shape):
    """Images of two channels and 1, 3 or 4 columns were refused as channels last."""
    images = np.zeros(shape)
    assert check_images(images) is images


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((2, 3, 3, 3), (3, 3, 3)),
        ((2, 4, 6, 2), (4, 6, 2)),
        ((2, 4, 4, 3), (3, 4, 4)),
        ((2, 6, 4, 3), (6, 4, 3)),  # six channels of 4 x 3 pixels, if that is expected
        ((2, 4, 6), (1, 4, 6)),
        ((2, 1, 4, 6), (4, 6)),
        ((2, 4, 6, 1), (4, 6)),
        ((2, 4, 6, 1), (1, 4, 6)),
    ],
)
def test_the_expected_shape_decides_on_the_order_of_axes(given, expected, rng):
    images = rng.random(given)
    checked = check_images(images, "images", expected)
    assert checked.shape == (2, *expected)
    last = given == (2, 4, 4, 3)
    assert_array_equal(checked.ravel(), (np.moveaxis(images, -1, 1) if last else images).ravel())


@pytest.mark.parametrize("given", [(2, 6, 4), (2, 3, 4, 6), (2, 6, 4, 1), (2, 4, 6, 3)])
def test_images_of_another_shape_than_expected(given):
    with pytest.raises(ValueError, match=r"must have shape \(n, 4, 6\), got"):
        check_images(np.zeros(given), "images", (4, 6))
    with pytest.raises(ValueError, match=r"\(n, 3, 9, 8\) or \(n, 9, 8, 3\), got \(2, "):
        check_images(np.zeros(given), "images", (3, 9, 8))


ENTRIES = {
    "check_images": lambda values: check_images(values),
    "check_weights": lambda values: check_weights(values[:, 0, 0], 2),
    "check_targets": lambda values: check_targets(values[:, 0], 2, 4),
    "check_labels": lambda values: check_labels(values[:, 0, 0], 2, 4),
    "ImageSet": lambda values: ImageSet(values, np.arange(2)),
    "labels of ImageSet": lambda values: ImageSet(np.zeros((2, 3, 4)), values[:, 0, 0]),
    "weights of ImageSet": lambda values: ImageSet(
        np.zeros((2, 3, 4)), np.arange(2), values[:, 0, 0]
    ),
    "classes of Dataset": lambda values: Dataset(
        "some", values[0, 0], ImageSet(np.zeros((2, 3, 4)), np.arange(2)), None
    ),
    "TrainingSet": lambda values: TrainingSet(values, np.arange(2), 2),
    "Network.predict": lambda values: NETWORK.predict(values),
    "Network.with_weights": lambda values: NETWORK.with_weights(values[0, :1], NETWORK.A),
    "RidgeLayer": lambda values: RidgeLayer(NETWORK.units, values[0, :1], 2),
    "add_images": lambda values: RidgeLayer(NETWORK.units, NETWORK.W, 2).add_images(values, [0, 1]),
}
"""Calls that take an array from a user, of shape (2, 3, 4)."""
_UNITS = whole_image_units("dense", (3, 4), 1)
NETWORK = Network(_UNITS, np.zeros((1, 13), np.float32), np.zeros((2, 2)), np.arange(2), (3, 4))


@pytest.mark.parametrize("entry", ENTRIES)
def test_masks_and_imaginary_parts_are_not_dropped(entry):
    with pytest.raises(ValueError, match="must have no masked values, got"):
        ENTRIES[entry](np.ma.array(np.zeros((2, 3, 4)), mask=True))
    with pytest.raises(ValueError, match="must be real, got complex128"):
        ENTRIES[entry](np.zeros((2, 3, 4), dtype=complex))


def test_a_list_of_masked_arrays_is_masked():
    rows = [np.ma.array(np.zeros((3, 4)), mask=np.arange(12).reshape(3, 4) == 5)] * 2
    with pytest.raises(ValueError, match=r"got 2 of 24 masked; fill them in .*or leave out"):
        check_images(rows)


def test_a_mask_that_hides_nothing_is_no_fault():
    images = np.ones((2, 3, 4))
    assert_array_equal(check_images(np.ma.array(images)), images)
