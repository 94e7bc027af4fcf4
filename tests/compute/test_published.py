"""References to images: small, checked, read once."""

import mmap
import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import load
from varpro_nn.compute import published
from varpro_nn.compute.published import NamedImages, StoredImages, images_of, remove_left, stored
from varpro_nn.errors import DatasetError


@pytest.fixture(scope="module")
def train():
    return load("digits").train


@pytest.fixture(autouse=True)
def _nothing_read():
    published._read.cache_clear()


def test_a_reference_is_small(train, tmp_path):
    with stored(train, tmp_path) as reference:
        assert len(pickle.dumps(reference)) < 1000 < train.images.nbytes


def test_stored_images_come_back_mapped(train, tmp_path):
    with stored(train, tmp_path) as reference:
        images = images_of(pickle.loads(pickle.dumps(reference)))
        assert_array_equal(images.images, train.images)
        assert_array_equal(images.labels, train.labels)
        base = images.images
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert not images.images.flags.writeable
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(train, tmp_path):
    with stored(train, tmp_path):
        (left,) = tmp_path.iterdir()
        (tmp_path / "images-of-mine").mkdir()
        remove_left(tmp_path)  # by another process, after the first was killed
        assert not left.exists()
        left.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["images-of-mine"]


@pytest.mark.parametrize("n_train", [None, 40])
def test_named_images_are_loaded(n_train, train):
    part = train if n_train is None else train.take(slice(n_train))
    images = images_of(NamedImages("digits", None, n_train, part.digest))
    assert_array_equal(images.images, part.images)


def test_a_file_is_found_from_another_folder(train, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", x_train=train.images, y_train=train.labels)
    monkeypatch.chdir(tmp_path)
    dataset = load("mine.npz")
    monkeypatch.chdir("/")
    assert images_of(NamedImages(dataset.source.name, None, None, dataset.train.digest)).digest


def test_images_are_read_once(train, tmp_path, monkeypatch):
    count = []
    read = StoredImages.read
    monkeypatch.setattr(StoredImages, "read", lambda self: count.append(1) or read(self))
    with stored(train, tmp_path) as reference:
        assert images_of(reference) is images_of(replace(reference))
    assert len(count) == 1


def test_other_images_are_refused(train, tmp_path):
    with (
        stored(train, tmp_path) as reference,
        pytest.raises(DatasetError, match=r"digest='0000'.*are others, of digest"),
    ):
        images_of(replace(reference, digest="0000"))
    with pytest.raises(DatasetError, match="are others"):
        images_of(NamedImages("digits", None, 39, train.digest))


def test_arrays_pass_as_they_are(train):
    assert images_of(train) is train
