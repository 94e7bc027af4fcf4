"""What training images say about pictures, and pictures of any size made like them."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from varpro_nn import load
from varpro_nn.data import pictures, read_images
from varpro_nn.data.cropping import crop
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.data.pictures import read_picture
from varpro_nn.data.preparation import Frame, Preparation
from varpro_nn.errors import DatasetError

BYTES = IntensityRange(0.0, 0.0, 1.0, 1.0)
MNIST = Preparation(BYTES, 0.0, Frame(20 / 28, "mass", (0.5, 0.5)))
"""Ink on black, its box 20 of 28 pixels, its centre of mass in the middle."""


def hook(rows=28, columns=28):
    """A white hook on black, 20 x 8 pixels, in a corner."""
    image = np.zeros((rows, columns), dtype=np.uint8)
    image[1:21, 6:9] = 255
    image[17:21, 1:9] = 255
    return image


def digit():
    return MNIST.picture(hook(), (28, 28))


def enlarged(image, factor=8):
    return np.kron(image, np.ones((factor, factor), dtype=np.uint8))


def framed_images(n, rng, anchor="mass"):
    """Strokes of random shape on black, framed as MNIST's."""
    frame = Frame(20 / 28, anchor, (0.5, 0.5))
    plain = Preparation(BYTES, 0.0, frame)
    images = np.zeros((n, 40, 40), dtype=np.uint8)
    for image in images:
        for _ in range(4):
            (y, x), (h, w) = rng.integers(0, 28, 2), rng.integers(3, 12, 2)
            image[y : y + h, x : x + w] = 255
    return np.stack([plain.picture(image, (28, 28)) for image in images])


# --- what is learnt ----------------------------------------------------------------------


@pytest.mark.parametrize("anchor", ["mass", "box"])
@pytest.mark.parametrize("light", [False, True])
def test_ink_on_plain_ground_is_found(anchor, light, rng):
    images = framed_images(60, rng, anchor)
    found = Preparation.learn(255 - images if light else images)
    assert found.ground == float(light)
    assert found.full_ink == float(not light)
    assert found.frame.anchor == anchor
    assert_allclose(found.frame.filled, 20 / 28, atol=1 / 28)
    assert_allclose(found.frame.centre, 0.5, atol=0.5 / 28)
    assert Preparation.learn((images / 255)[:, None].astype(np.float32)) == Preparation.learn(
        (images / 255).astype(np.float32)
    )


def test_ink_anywhere_has_no_frame(rng):
    images = np.zeros((60, 28, 28), dtype=np.uint8)
    for image, (y, x) in zip(images, rng.integers(1, 15, (60, 2)), strict=True):
        image[y : y + rng.integers(4, 12), x : x + 6] = 255
    found = Preparation.learn(images)
    assert (found.ground, found.frame) == (0.0, None)


@pytest.mark.parametrize("shape", [(28, 28), (3, 28, 28)], ids=["grey", "colour"])
def test_photographs_have_no_ground(shape, rng):
    images = rng.integers(0, 256, (60, *shape), dtype=np.uint8)
    found = Preparation.learn(images)
    assert (found.ground, found.frame) == (None, None)


def test_paper_of_many_greys_is_no_ground(rng):
    images = framed_images(60, rng) // 4 + np.linspace(0, 180, 60).astype(np.uint8)[:, None, None]
    assert Preparation.learn(images).ground is None


def test_signed_intensities_are_no_bytes(rng):
    images = 2 * (framed_images(60, rng) / 255) - 1
    found = Preparation.learn(images)
    assert not found.takes_bytes
    assert found.ground is None
    with pytest.raises(ValueError, match=r"from -1 to 1 as in training, got uint8"):
        found.check(np.zeros((1, 28, 28), dtype=np.uint8))
    with pytest.raises(ValueError, match="takes no pictures; give arrays"):
        found.picture(digit(), (28, 28))


@pytest.mark.parametrize("preparation", [MNIST, Preparation(), Preparation(BYTES, 1.0)])
def test_plain_values_and_back(preparation):
    assert Preparation.from_spec(preparation.spec()) == preparation


@pytest.mark.parametrize(
    "changed",
    [
        {"ground": np.nan}, {"ground": "0"}, {"ground": None}, {"intensities": None},
        {"intensities": [0.0, 1.0]},
        {"frame": {"filled": 2.0, "anchor": "box", "centre": [0.5, 0.5]}},
        {"frame": {"filled": 0.5, "anchor": "left", "centre": [0.5, 0.5]}},
        {"frame": {"filled": 0.5, "anchor": "box", "centre": [0.5]}},
    ],
)  # fmt: skip
def test_values_of_no_preparation(changed):
    with pytest.raises((ValueError, TypeError)):
        Preparation.from_spec({**MNIST.spec(), **changed})


# --- what becomes of a picture -------------------------------------------------------------


def test_what_is_prepared_fills_the_frame():
    image = digit()
    rows = np.flatnonzero(image.any(axis=1))
    assert np.ptp(rows) + 1 == 20
    y, x = (image.sum(axis=1) @ np.arange(28), image.sum(axis=0) @ np.arange(28))
    assert abs(y / image.sum() - 13.5) <= 0.5
    assert abs(x / image.sum() - 13.5) <= 0.5
    assert_array_equal(MNIST.picture(image, (28, 28)), image)


@pytest.mark.parametrize("factor", [1, 3, 10])
@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("move", [(0, 0), (40, 7)])
def test_size_place_and_paper_do_not_matter(factor, light, move):
    image = digit()
    large = np.pad(enlarged(image, factor), ((move[0], 0), (0, move[1])))
    if light:
        large = 235 - (large * 0.8).astype(np.uint8)  # grey ink on paper that is not white
    found = MNIST.picture(large, (28, 28))
    assert np.abs(found.astype(int) - image).max() <= 3


def test_dark_ink_on_light_ground_stays_so():
    inverted = Preparation(BYTES, 1.0, MNIST.frame)
    for picture in (digit(), 255 - digit(), enlarged(hook())):
        assert_array_equal(
            inverted.picture(picture, (28, 28)), 255 - MNIST.picture(picture, (28, 28))
        )


def test_ground_without_a_frame_keeps_size_and_place():
    plain = replace(MNIST, frame=None)
    assert_array_equal(plain.picture(255 - enlarged(hook()), (28, 28)), hook())
    wide = np.pad(enlarged(hook()), ((0, 0), (112, 112)))
    found = plain.picture(wide, (28, 28))
    assert not found[:7].any()  # the whole picture, ground above and below
    assert found[7:21].any()


def test_faint_ink_is_stretched_only_where_training_images_reach_full_ink():
    faint = (enlarged(digit()) // 2).astype(np.uint8)
    assert MNIST.picture(faint, (28, 28)).max() == 255
    shades = replace(MNIST, intensities=IntensityRange(0.0, 0.0, 0.3, 1.0))
    assert shades.picture(faint, (28, 28)).max() == 127


def test_an_empty_picture_is_ground():
    for level in (0, 128, 255):
        picture = np.full((40, 30), level, dtype=np.uint8)
        assert not MNIST.picture(picture, (28, 28)).any()
        assert (Preparation(BYTES, 1.0).picture(picture, (28, 28)) == 255).all()


def test_other_shapes_and_how_much_is_filled():
    bar = np.zeros((50, 50), dtype=np.uint8)
    bar[10:40, 20:30] = 200
    whole = replace(MNIST, frame=Frame(1.0, "box", (0.5, 0.5))).picture(bar, (8, 16))
    assert whole.shape == (8, 16)
    assert whole.max() == 255
    assert (np.nonzero(whole.any(axis=1))[0] == np.arange(8)).all()


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
def test_without_a_ground_a_picture_is_resized_and_no_more(channels, rng):
    images = rng.integers(0, 256, (*channels, 10, 10), dtype=np.uint8)
    picture = np.kron(images, np.ones((3, 3), dtype=np.uint8))
    wide = np.pad(picture, (*[(0, 0)] * len(channels), (0, 0), (7, 7)))
    for preparation in (Preparation(), Preparation(BYTES)):
        assert_array_equal(preparation.picture(wide, images.shape), images)


def test_training_images_stay_as_they_are(rng):
    """Enlarged or not, ink or not: what a network was trained on is what it sees."""
    for images in (
        framed_images(40, rng, "mass"),
        255 - framed_images(40, rng, "box"),
        rng.integers(0, 256, (40, 8, 8), dtype=np.uint8),
        load("digits").train.images[:40],
    ):
        preparation = Preparation.learn(images)
        pixels = images if images.dtype == np.uint8 else np.round(255 * images).astype(np.uint8)
        for factor in (1, 8):
            found = [preparation.picture(enlarged(i, factor), i.shape) for i in pixels]
            assert (
                np.mean(np.abs(np.subtract(found, pixels, dtype=float)).max(axis=(1, 2)) > 1) < 0.1
            )


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "PPM", "BMP"])
def test_files_of_every_format(format_, tmp_path):
    image = digit()
    path = tmp_path / "picture"
    Image.fromarray(enlarged(255 - image, 5)).save(path, format_, quality=95)
    with pytest.raises(DatasetError, match=r"got \(140, 140\). predict --prepare scales pictures"):
        read_images(path, (28, 28))
    found = read_images(path, (28, 28), prepared=MNIST)
    assert found.shape == (1, 28, 28)
    assert np.abs(found[0].astype(int) - image).mean() < (3 if format_ == "JPEG" else 0.1)
    assert read_images(path, (1, 28, 28), prepared=MNIST).shape == (1, 1, 28, 28)
    assert read_images(path, (3, 28, 28), prepared=Preparation()).shape == (1, 3, 28, 28)


def test_a_picture_of_absurd_size(tmp_path, monkeypatch):
    monkeypatch.setattr("varpro_nn.data.pictures._MAX_PIXELS", 99)
    Image.fromarray(np.zeros((10, 10), dtype=np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(DatasetError, match=r"must have at most 99 pixels, got 10 x 10"):
        read_images(tmp_path / "large.png", (28, 28), prepared=MNIST)


def test_digits_of_mnist_come_back():
    try:
        data = load("mnist", progress=False)
    except DatasetError as error:
        pytest.skip(f"MNIST cannot be had: {error}")
    learnt = Preparation.learn(data.train.images[:2000])
    assert_allclose(learnt.frame.filled, 20 / 28)
    assert learnt.frame.anchor == "mass"
    # The centre of mass is at pixel 14 of 0 to 27: half a pixel beyond the middle.
    assert_allclose(learnt.frame.centre, 14.5 / 28, atol=0.1 / 28)
    differences = []
    for image in data.test.images[:50]:
        paper = 255 - np.pad(enlarged(image, 9), ((0, 90), (45, 0)))  # not in the middle
        found = learnt.picture(paper, (28, 28)).astype(int)
        differences.append(np.abs(found - image).mean() / image.mean())
    assert np.quantile(differences, 0.8) < 0.05


def test_bytes_and_floats_are_resized_alike(rng):
    picture = rng.integers(0, 256, (3, 37, 53), dtype=np.uint8)
    in_bytes = Preparation(BYTES).picture(picture, (3, 16, 16)).astype(int)
    in_floats = Preparation(BYTES, in_bytes=False).picture(picture, (3, 16, 16))
    assert np.abs(in_bytes - in_floats).max() == 1


def test_older_files_resize_in_floating_point():
    """Their networks get the same pixels as before."""
    older = Preparation(BYTES, cropped=True).spec()
    del older["in_bytes"]
    assert not Preparation.from_spec(older).in_bytes
    assert not Preparation.of_older_file(1.0).in_bytes
    assert not Preparation.of_older_file(None).in_bytes
    for preparation in (Preparation(BYTES), Preparation(BYTES, in_bytes=False)):
        assert Preparation.from_spec(preparation.spec()) == preparation


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_size(tmp_path, monkeypatch, orientation):
    """The mean over areas hardly changes."""
    y, x = np.mgrid[:640, :400]
    wave = 128 + 100 * np.sin(x / 40) * np.cos(y / 60)
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(wave.astype(np.uint8)).save(path, quality=95, exif=exif)
    decoded = []
    monkeypatch.setattr(
        pictures, "crop", lambda image, *size: decoded.append(image.size) or crop(image, *size)
    )
    shape = (20, 10) if orientation == 1 else (10, 20)
    small = Preparation(BYTES).read(path, shape).astype(int)
    assert decoded == [(50, 80) if orientation == 1 else (80, 50)]
    whole = Preparation(BYTES).picture(read_picture(path, 1), shape)
    assert np.abs(small - whole).max() <= 3


def test_a_file_is_prepared_as_its_pixels_are(tmp_path, rng):
    path = tmp_path / "picture.png"
    pixels = rng.integers(0, 256, (70, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    for preparation in (Preparation(BYTES), Preparation(BYTES, in_bytes=False)):
        assert_array_equal(
            preparation.read(path, (3, 8, 8)),
            preparation.picture(np.moveaxis(pixels, -1, 0), (3, 8, 8)),
        )
    assert_array_equal(MNIST.read(path, (28, 28)), MNIST.picture(read_picture(path, 1), (28, 28)))
    with pytest.raises(ValueError, match="takes no pictures"):
        Preparation(IntensityRange(-1.0, -1.0, 1.0, 1.0)).read(path, (8, 8))
