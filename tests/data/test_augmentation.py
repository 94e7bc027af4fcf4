"""Distorted copies of images.

An image whose two channels hold the row and the column of each pixel comes back holding where each
pixel was taken from: linear interpolation of a linear function is exact. The maps are read off so.
"""

import numpy as np
import pytest
import scipy
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.data import augmentation
from varpro_nn.data.augmentation import Augmentation, distort

NONE = Augmentation()
KINDS = {
    "shift": Augmentation(shift=2),
    "rotation": Augmentation(rotation=20),
    "scale": Augmentation(scale=0.2),
    "shear": Augmentation(shear=0.2),
    "elastic": Augmentation(elastic=1),
    "flip": Augmentation(flip=True),
    "all": Augmentation(shift=1, rotation=10, scale=0.1, shear=0.1, elastic=0.5, flip=True),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
COLOUR = pytest.mark.parametrize("channels", [(), (1,), (3,)], ids=["gray", "one", "colour"])
TYPES = pytest.mark.parametrize(
    "dtype", [np.uint8, np.float32, np.float64], ids=["uint8", "single", "double"]
)


def pictures(rng, shape, dtype=np.float64):
    bytes_ = rng.integers(0, 256, shape, dtype=np.uint8)
    return bytes_ if dtype == np.uint8 else (bytes_ / 255).astype(dtype)


def map_of(amounts, rng, n=200, side=33):
    """Where pixels come from, relative to the middle, and where they are: (n, 2, ...), (2, ...)."""
    here = np.stack(np.mgrid[:side, :side]) - (side - 1) / 2.0
    source = distort(np.broadcast_to(here, (n, *here.shape)).copy(), amounts, rng)
    return source, here


def inside(here, margin):
    """Pixels at least ``margin`` from the border: what is beyond the border is clipped."""
    return (np.abs(here) <= here.max() - margin).all(axis=0)


def linear_part(source, here, margin):
    """Matrices (n, 2, 2) and offsets (n, 2) of affine maps."""
    where = inside(here, margin)
    design = np.vstack([here[:, where], np.ones(where.sum())]).T
    values = source[:, :, where].reshape(-1, where.sum()).T
    solution, *_ = np.linalg.lstsq(design, values)
    assert_allclose(design @ solution, values, atol=1e-4)  # it is affine
    solution = solution.T.reshape(len(source), 2, 3)
    return solution[..., :2], solution[..., 2]


# --- what holds for all -------------------------------------------------------------------


@COLOUR
@TYPES
def test_no_distortion_is_the_identity(dtype, channels, rng):
    images = pictures(rng, (5, *channels, 8, 9), dtype)
    same = distort(images, NONE, rng)
    assert_array_equal(same, images)
    assert not np.shares_memory(same, images)
    assert not NONE
    assert all(KINDS.values())


@TYPES
@COLOUR
@EVERY_KIND
def test_shape_type_and_input_are_kept(kind, channels, dtype, rng):
    images = pictures(rng, (6, *channels, 12, 9), dtype)
    before = images.copy()
    images.flags.writeable = False
    distorted = distort(images, KINDS[kind], rng)
    assert distorted.shape == images.shape
    assert distorted.dtype == dtype
    assert_array_equal(images, before)
    assert not np.array_equal(distorted, images)
    # Interpolation makes nothing brighter or darker than what was there: by no margin.
    assert distorted.min() >= images.min()
    assert distorted.max() <= images.max()


@EVERY_KIND
def test_the_seed_decides(kind, rng):
    images = pictures(rng, (12, 8, 9))
    seed = int(rng.integers(2**31))
    one, same, other = (
        distort(images, KINDS[kind], np.random.default_rng(s)) for s in (seed, seed, seed + 1)
    )
    assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@EVERY_KIND
def test_images_are_distorted_apart(kind, rng):
    n, n_different = {"flip": (12, 2), "shift": (400, 5 * 5)}.get(kind, (12, 12))
    images = np.broadcast_to(pictures(rng, (8, 9)), (n, 8, 9))
    distorted = distort(images, KINDS[kind], rng)
    assert len(np.unique(distorted, axis=0)) == n_different


@EVERY_KIND
def test_channels_move_together(kind, rng):
    images = pictures(rng, (5, 3, 9, 8))
    seed = int(rng.integers(2**31))
    together = distort(images, KINDS[kind], np.random.default_rng(seed))
    for channel in range(3):
        alone = distort(images[:, channel], KINDS[kind], np.random.default_rng(seed))
        assert_array_equal(together[:, channel], alone)


@EVERY_KIND
def test_bytes_are_the_rounded_intensities(kind, rng):
    stored = pictures(rng, (6, 9, 8), np.uint8)
    seed = int(rng.integers(2**31))
    rounded, exact = (
        distort(images, KINDS[kind], np.random.default_rng(seed))
        for images in (stored, stored.astype(np.float64))
    )
    # Rounding moves a number by up to a half, so errors near the bound are right.
    assert_allclose(rounded, exact, rtol=0, atol=0.5 + 1e-4)


@EVERY_KIND
def test_images_of_one_level_stay(kind, rng):
    images = np.full((4, 9, 8), 77, dtype=np.uint8)
    assert_array_equal(distort(images, KINDS[kind], rng), images)


@EVERY_KIND
@pytest.mark.parametrize("block", [1, 4, 11, 12])
def test_images_are_worked_on_in_blocks(block, kind, rng, monkeypatch):
    """Whatever their size, a call repeats itself, and its first block is a call of its own."""
    monkeypatch.setattr(augmentation, "BLOCK", block)
    images = np.broadcast_to(pictures(rng, (8, 9)), (11, 8, 9))
    seed = int(rng.integers(2**31))
    one, same = (distort(images, KINDS[kind], np.random.default_rng(seed)) for _ in range(2))
    assert_array_equal(one, same)
    start = distort(images[:block], KINDS[kind], np.random.default_rng(seed))
    assert_array_equal(one[:block], start)
    n_different = len(np.unique(one, axis=0))
    if kind == "shift":  # one of 25, so some come twice; blocks that repeat each other have 4
        assert n_different > 6
    else:
        assert n_different == (2 if kind == "flip" else 11)


# --- each of them -------------------------------------------------------------------------


class LargestDraws:
    """A generator whose numbers are as large as they may be."""

    def uniform(self, low, high, size):
        return np.full(size, float(high))

    def integers(self, low, high, size):
        return np.full(size, high - 1)


@TYPES
@COLOUR
@pytest.mark.parametrize("shift", [1, 3])
def test_shift_by_whole_pixels_is_a_roll_away_from_the_border(shift, channels, dtype, rng):
    images = pictures(rng, (4, *channels, 9, 8), dtype)
    shifted = distort(images, Augmentation(shift=shift), LargestDraws())
    rolled = np.roll(images, (-shift, -shift), axis=(-2, -1))
    inner = (..., slice(None, -shift), slice(None, -shift))
    assert_allclose(shifted[inner], rolled[inner], rtol=1e-6)
    # Beyond the border is the nearest pixel.
    nearest = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(0, shift)] * 2, mode="edge")
    assert_allclose(shifted, nearest[..., shift:, shift:], rtol=1e-6)


@COLOUR
@pytest.mark.parametrize("flip", [False, True])
def test_shifts_alone_are_those_among_other_distortions(flip, channels, rng):
    """Whole pixels need no interpolation, and interpolation must not draw other shifts."""
    images = pictures(rng, (50, *channels, 9, 8), np.uint8)
    alone, among = (
        distort(images, amounts, np.random.default_rng(3))
        for amounts in (
            Augmentation(shift=2, flip=flip), Augmentation(shift=2, flip=flip, rotation=1e-9)
        )
    )  # fmt: skip
    assert_array_equal(alone, among)
    assert not np.array_equal(alone, images)


def test_shifts_are_uniform_and_independent(rng):
    source, here = map_of(Augmentation(shift=3), rng, n=1000)
    matrix, offset = linear_part(source, here, margin=4)
    assert_allclose(matrix, np.broadcast_to(np.eye(2), matrix.shape), atol=1e-5)
    assert_allclose(offset, np.rint(offset), atol=1e-4)  # whole pixels: nothing is blurred
    for moves in np.rint(offset).T:
        values, counts = np.unique(moves, return_counts=True)
        assert_array_equal(values, np.arange(-3, 4))
        assert_allclose(counts / 1000, 1 / 7, atol=0.05)
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.15


def test_rotations_are_about_the_middle(rng):
    source, here = map_of(Augmentation(rotation=30), rng)
    matrix, offset = linear_part(source, here, margin=8)
    assert_allclose(offset, 0, atol=1e-4)
    assert_allclose(matrix @ matrix.swapaxes(1, 2), np.broadcast_to(np.eye(2), matrix.shape),
                    atol=1e-5)  # fmt: skip
    assert_allclose(np.linalg.det(matrix), 1, atol=1e-5)
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert np.abs(angle).max() <= 30 + 1e-3
    assert_allclose(angle.mean(), 0, atol=5)
    assert_allclose(angle.std(), 30 / np.sqrt(3), rtol=0.2)


def test_scales_of_the_two_axes_are_independent(rng):
    source, here = map_of(Augmentation(scale=0.3), rng)
    matrix, offset = linear_part(source, here, margin=8)
    assert_allclose(offset, 0, atol=1e-4)
    assert_allclose(matrix[:, [0, 1], [1, 0]], 0, atol=1e-5)
    change = matrix[:, [0, 1], [0, 1]] - 1
    assert np.abs(change).max() <= 0.3 + 1e-5
    assert_allclose(change.mean(axis=0), 0, atol=0.06)
    assert_allclose(change.std(axis=0), 0.3 / np.sqrt(3), rtol=0.2)
    assert abs(np.corrcoef(change.T)[0, 1]) < 0.3


def test_shear_moves_rows_along_the_columns(rng):
    source, here = map_of(Augmentation(shear=0.3), rng)
    matrix, offset = linear_part(source, here, margin=8)
    assert_allclose(offset, 0, atol=1e-4)
    assert_allclose(matrix[:, 0], np.broadcast_to([1, 0], (200, 2)), atol=1e-5)
    assert_allclose(matrix[:, 1, 1], 1, atol=1e-5)
    shear = matrix[:, 1, 0]
    assert np.abs(shear).max() <= 0.3 + 1e-5
    assert_allclose(shear.std(), 0.3 / np.sqrt(3), rtol=0.2)


def test_elastic_displacements_have_the_stated_standard_deviation(rng):
    source, here = map_of(Augmentation(elastic=1.5), rng, n=60, side=65)
    where = inside(here, margin=16)
    displacement = (source - here)[:, :, where]
    assert_allclose(displacement.std(axis=(0, 2)), 1.5, rtol=0.12)
    assert_allclose(displacement.mean(axis=(0, 2)), 0, atol=0.3)
    assert abs(np.corrcoef(displacement[:, 0].ravel(), displacement[:, 1].ravel())[0, 1]) < 0.15
    # Smooth: neighbours move alike, pixels far apart do not.
    field = (source - here)[:, 0, 16:-16, 16:-16]
    near = np.corrcoef(field[:, :, 1:].ravel(), field[:, :, :-1].ravel())[0, 1]
    far = np.corrcoef(field[:, :, 20:].ravel(), field[:, :, :-20].ravel())[0, 1]
    assert near > 0.97
    assert abs(far) < 0.25


@pytest.mark.parametrize("side", [5, 8, 14, 28])
def test_elastic_displacements_deform_small_images_too(side, rng, monkeypatch):
    """With a filter as wide as the image, 8 x 8 pixels all moved alike, and by 1.77 times as much.

    Of 28 x 28 pixels, 0.86 of the standard deviation is within the image.
    """
    fields = []
    sample = scipy.ndimage.map_coordinates

    def spy(image, where, **options):
        fields.append(where[1:])
        return sample(image, where, **options)

    monkeypatch.setattr(scipy.ndimage, "map_coordinates", spy)
    distort(np.zeros((500, side, side)), Augmentation(elastic=1.5), rng)
    displacement = fields[0] - np.mgrid[:side, :side][:, None]
    within = displacement - displacement.mean(axis=(2, 3), keepdims=True)
    assert_allclose(displacement.std(), 1.5, rtol=0.1)
    assert_allclose(within.std(), 0.86 * 1.5, rtol=0.1)


@TYPES
@COLOUR
def test_flip_is_a_mirror_for_half_of_the_images(channels, dtype, rng):
    images = pictures(rng, (300, *channels, 4, 5), dtype)
    flipped = distort(images, Augmentation(flip=True), rng)
    axes = tuple(range(1, images.ndim))
    same = (flipped == images).all(axis=axes)
    mirrored = (flipped == images[..., ::-1]).all(axis=axes)
    assert_array_equal(same, ~mirrored)
    assert 0.35 < mirrored.mean() < 0.65


def test_flips_come_with_the_other_distortions(rng):
    source, here = map_of(Augmentation(shift=2, flip=True), rng)
    matrix, offset = linear_part(source, here, margin=3)
    assert_allclose(matrix[:, 0], np.broadcast_to([1, 0], (200, 2)), atol=1e-5)
    assert_allclose(np.abs(matrix[:, 1, 1]), 1, atol=1e-5)
    assert 0.3 < (matrix[:, 1, 1] < 0).mean() < 0.7
    assert np.abs(offset).max() <= 2 + 1e-4


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [-0.1, float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("name", ["shift", "rotation", "scale", "shear", "elastic"])
def test_amounts_are_checked(name, amount):
    with pytest.raises(ValueError, match=f"{name} must be ((finite and )?at least 0|of type int)"):
        Augmentation(**{name: amount})


@pytest.mark.parametrize("shift", [0.5, 1.25])
def test_shifts_are_whole_pixels(shift):
    with pytest.raises(ValueError, match=f"shift must be of type int, got {shift}"):
        Augmentation(shift=shift)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_an_image_cannot_be_turned_inside_out(scale):
    with pytest.raises(ValueError, match=f"scale must be .* less than 1, got {scale}"):
        Augmentation(scale=scale)
