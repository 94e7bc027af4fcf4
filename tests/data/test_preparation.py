"""Pictures of any size become images like those of training."""

import numpy as np
import pytest
from PIL import Image

from varpro_nn import load
from varpro_nn.data import read_images
from varpro_nn.data.preparation import prepare
from varpro_nn.errors import DatasetError


def digit():
    """A white hook on black that fills 20 x 14 of 28 x 28, its centre of mass in the middle."""
    image = np.zeros((28, 28), dtype=np.uint8)
    image[4:24, 12:15] = 255
    image[20:24, 7:15] = 255
    return prepare(image, (28, 28))


def test_what_is_prepared_stays_as_it_is():
    image = digit()
    assert np.abs(prepare(image, (28, 28)).astype(int) - image).max() <= 1
    rows = np.flatnonzero(image.any(axis=1))
    assert np.ptp(rows) + 1 == 20
    y, x = (image.sum(axis=1) @ np.arange(28), image.sum(axis=0) @ np.arange(28))
    assert abs(y / image.sum() - 13.5) <= 0.75
    assert abs(x / image.sum() - 13.5) <= 0.75


@pytest.mark.parametrize("factor", [1, 3, 10])
@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("move", [(0, 0), (40, 7)])
def test_size_place_and_paper_do_not_matter(factor, light, move):
    image = digit()
    large = np.kron(image, np.ones((factor, factor), dtype=np.uint8))
    large = np.pad(large, ((move[0], 0), (0, move[1])))
    if light:
        large = 235 - (large * 0.8).astype(np.uint8)  # grey ink on paper that is not white
    found = prepare(large, (28, 28))
    assert np.abs(found.astype(int) - image).max() <= 3


def test_an_empty_picture_is_black():
    for level in (0, 128, 255):
        assert not prepare(np.full((40, 30), level, dtype=np.uint8), (28, 28)).any()


def test_other_shapes_and_how_much_is_filled():
    bar = np.zeros((50, 50), dtype=np.uint8)
    bar[10:40, 20:30] = 200
    whole = prepare(bar, (8, 16), filled=1.0)
    assert whole.shape == (8, 16)
    assert whole.max() == 255
    assert (np.nonzero(whole.any(axis=1))[0] == np.arange(8)).all()


def test_the_middle_of_a_coloured_picture():
    picture = np.zeros((3, 30, 60), dtype=np.uint8)
    picture[0, :, 15:45] = 200
    picture[2, :, :15] = 99
    image = prepare(picture, (3, 10, 10))
    assert image.shape == (3, 10, 10)
    assert (image[0] == 200).all()
    assert not image[1:].any()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "PPM", "BMP"])
def test_files_of_every_format(format_, tmp_path):
    image = digit()
    path = tmp_path / "picture"
    Image.fromarray(np.kron(255 - image, np.ones((5, 5), dtype=np.uint8))).save(
        path, format_, quality=95
    )
    with pytest.raises(DatasetError, match=r"got \(140, 140\). predict --prepare scales pictures"):
        read_images(path, (28, 28))
    found = read_images(path, (28, 28), prepared=20 / 28)
    assert found.shape == (1, 28, 28)
    assert np.abs(found[0].astype(int) - image).mean() < (3 if format_ == "JPEG" else 0.1)
    assert read_images(path, (1, 28, 28), prepared=20 / 28).shape == (1, 1, 28, 28)
    assert read_images(path, (3, 28, 28), prepared=1.0).shape == (1, 3, 28, 28)


def test_a_picture_of_absurd_size(tmp_path, monkeypatch):
    monkeypatch.setattr("varpro_nn.data.pictures._MAX_PIXELS", 99)
    Image.fromarray(np.zeros((10, 10), dtype=np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(DatasetError, match=r"must have 99 pixels at most, got 10 x 10"):
        read_images(tmp_path / "large.png", (28, 28), prepared=1.0)


def test_digits_of_mnist_come_back():
    try:
        test = load("mnist", progress=False).test
    except DatasetError as error:
        pytest.skip(f"MNIST cannot be had: {error}")
    differences = []
    for image in test.images[:50]:
        paper = 255 - np.kron(image, np.ones((9, 9), dtype=np.uint8))
        found = prepare(paper, (28, 28)).astype(int)
        shifted = [np.roll(found, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        differences.append(min(np.abs(each - image).mean() for each in shifted) / image.mean())
    assert np.median(differences) < 0.1
