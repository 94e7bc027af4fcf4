"""Folders of pictures with a sub-folder for each class."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varpro_nn import load
from varpro_nn.data import picture_set
from varpro_nn.data.class_folder import pictures_in_class_folder
from varpro_nn.errors import DatasetError


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(rng: np.random.Generator, rows: int = 6, columns: int = 6) -> np.ndarray:
    return rng.integers(0, 256, (rows, columns)).astype(np.uint8)


@pytest.fixture
def two_classes(tmp_path: Path, rng: np.random.Generator) -> Path:
    for name in ("cat/1.png", "cat/deeper/2.png", "dog/1.png"):
        save(tmp_path / name, grey(rng))
    return tmp_path


def test_folders_are_classes_and_pictures_of_one_size_stay_as_they_are(two_classes):
    data = load(two_classes)
    assert data.classes.tolist() == ["cat", "dog"]
    assert data.train.labels.tolist() == [0, 0, 1]
    names = ("cat/1.png", "cat/deeper/2.png", "dog/1.png")
    expected = [np.asarray(Image.open(two_classes / name)) for name in names]
    np.testing.assert_array_equal(data.train.images, expected)
    assert data.test is None
    assert not data.cropped


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [("train", "test", "valid"), ("Training", "Testing", "val"), ("TRAIN", "test", "validation")],
)
def test_folders_of_subsets(tmp_path, rng, train, test, validation):
    for at, subset in enumerate((train, test, validation)):
        for label in "ab":
            for number in range(at + 1):
                save(tmp_path / subset / label / f"{number}.png", grey(rng))
    data = load(tmp_path)
    lengths = [len(part) for part in (data.train, data.test, data.validation)]
    assert lengths == [2, 4, 6]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.validation.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(6, 8), (6, 8), (6, 8)], (6, 8)),
        ([(40, 20), (60, 30), (80, 40)], (60, 30)),
        ([(200, 100), (300, 150), (100, 50)], (64, 32)),
        ([(1000, 1), (1000, 1)], (64, 1)),
    ],
)
def test_the_size_is_the_median_or_smaller(tmp_path, rng, sizes, expected):
    for number, size in enumerate(sizes):
        for label in "ab":
            save(tmp_path / label / f"{number}.png", grey(rng, *size))
    data = load(tmp_path)
    assert data.image_shape == expected
    assert data.cropped == (set(sizes) != {expected})
    assert load(tmp_path, image_size=(5, 4)).image_shape == (5, 4)


def test_a_picture_is_cropped_in_the_middle_and_resized(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:2, 2:6] = 200
    save(tmp_path / "a/1.png", pixels)
    save(tmp_path / "b/1.png", np.zeros((2, 2), np.uint8))
    images = load(tmp_path, image_size=(2, 2)).train.images
    np.testing.assert_array_equal(images, [[[200, 200], [0, 0]], np.zeros((2, 2))])


def test_colour_is_found(tmp_path, rng):
    for label in "ab":
        save(tmp_path / label / "grey.png", np.stack([grey(rng)] * 3, axis=-1))
    assert load(tmp_path).image_shape == (6, 6)
    colours = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    save(tmp_path / "b" / "colour.png", colours)
    data = load(tmp_path)
    assert data.image_shape == (3, 6, 6)
    np.testing.assert_array_equal(data.train.images[1], np.moveaxis(colours, -1, 0))


def test_the_size_is_that_of_the_upright_picture(tmp_path, rng):
    exif = Image.Exif()
    exif[0x0112] = 6
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.fromarray(grey(rng, 4, 6)).save(tmp_path / label / "1.png", exif=exif)
    assert load(tmp_path).image_shape == (6, 4)


def test_no_bit_depends_on_the_number_of_jobs(two_classes, monkeypatch):
    alone = load(two_classes, n_jobs=1)
    monkeypatch.setattr(picture_set, "_WORTH", 1e-9)
    monkeypatch.setattr(picture_set, "_AT_A_TIME", 1)
    assert load(two_classes, n_jobs=2, progress=False).digest == alone.digest


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_out_of_the_folder_are_followed_if_asked_for(two_classes, tmp_path_factory, rng):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "secret.png", grey(rng))
    (two_classes / "dog/out.png").symlink_to(elsewhere / "secret.png")
    (two_classes / "dog/within.png").symlink_to(two_classes / "cat/1.png")
    (two_classes / "bird").symlink_to(elsewhere)
    (two_classes / "cat/round").symlink_to(two_classes)
    with pytest.warns(UserWarning, match=r"skipped .*bird.*follow_links"):
        data = load(two_classes)
    assert len(data.train) == 4
    assert data.classes.tolist() == ["cat", "dog"]
    followed = load(two_classes, follow_links=True)
    assert len(followed.train) == 6
    assert followed.classes.tolist() == ["bird", "cat", "dog"]


def test_what_is_no_picture_is_told(two_classes):
    (two_classes / "cat/notes.txt").write_text("a cat")
    (two_classes / "cat/.hidden").write_text("nothing")
    with pytest.warns(UserWarning, match=r"skipped .*notes\.txt: no pictures"):
        assert len(load(two_classes).train) == 3


def test_a_damaged_picture_is_named(two_classes):
    (two_classes / "dog/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DatasetError, match=r"broken\.png: cannot be read as a picture"):
        load(two_classes)


def test_pictures_beside_the_folders_are_refused(two_classes, rng):
    save(two_classes / "lost.png", grey(rng))
    with pytest.raises(DatasetError, match=r"in the folder of a class.*got lost\.png"):
        load(two_classes)


def test_other_folders_beside_train_are_refused(tmp_path, rng):
    for name in ("train/a/1.png", "train/b/1.png", "more/c/1.png"):
        save(tmp_path / name, grey(rng))
    with pytest.raises(DatasetError, match=r"beside train .* got more"):
        load(tmp_path)


def test_a_class_of_test_pictures_alone_is_refused(tmp_path, rng):
    for name in ("train/a/1.png", "train/b/1.png", "test/c/1.png"):
        save(tmp_path / name, grey(rng))
    with pytest.raises(DatasetError, match="every label of y_test must occur in y_train, got c"):
        load(tmp_path)


def test_one_class_is_refused(tmp_path, rng):
    save(tmp_path / "a/1.png", grey(rng))
    with pytest.raises(DatasetError, match="two classes or more"):
        load(tmp_path)


def test_arrays_come_before_folders_of_pictures(two_classes, rng):
    np.save(two_classes / "x_train.npy", rng.integers(0, 9, (4, 3, 3), dtype=np.uint8))
    np.save(two_classes / "y_train.npy", np.arange(4) % 2)
    assert load(two_classes).image_shape == (3, 3)


def test_a_number_of_jobs_that_is_none(two_classes):
    with pytest.raises(ValueError, match="n_jobs must be -1"):
        load(two_classes, n_jobs=0)


def test_a_folder_that_cannot_be_read(two_classes, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DatasetError, match="cannot be read: Permission denied"):
        pictures_in_class_folder(two_classes)
