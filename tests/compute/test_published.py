"""References to training sets: small, checked, read once."""

import errno
import mmap
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils import compute_sample_weight

from varpro_nn import load
from varpro_nn.compute.published import (
    Reference,
    StoredData,
    named,
    stored,
    training_set_of,
)
from varpro_nn.data.folder import images_in
from varpro_nn.data.training_set import NamedData, TrainingSet
from varpro_nn.errors import DatasetError


@pytest.fixture(scope="module")
def training():
    return TrainingSet.of(load("digits"))


@pytest.fixture(autouse=True)
def _nothing_read():
    training_set_of.cache_clear()


def test_a_reference_is_small(training, tmp_path):
    with stored(training, tmp_path) as reference:
        assert len(pickle.dumps(reference)) < 1000 < training.images.nbytes


def test_a_disk_too_full_for_the_images_is_said_with_the_folder(training, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with (
        pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/"),
        stored(training, tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_stored_images_come_back_mapped(training, tmp_path):
    weighted = replace(training, weights=np.arange(1.0, len(training) + 1), origin=None)
    with stored(weighted, tmp_path) as reference:
        found = training_set_of(pickle.loads(pickle.dumps(reference)))
        assert_array_equal(found.images, weighted.images)
        assert_array_equal(found.targets, weighted.targets)
        assert_array_equal(found.weights, weighted.weights)
        assert found.n_targets == 10
        base = found.images
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert not found.images.flags.writeable
    assert list(tmp_path.iterdir()) == []


def test_real_targets_come_back(tmp_path, training):
    targets = np.random.default_rng(0).standard_normal((len(training), 3))
    with stored(TrainingSet(training.images, targets, 3), tmp_path) as reference:
        found = training_set_of(reference)
        assert_array_equal(found.targets, targets)
        assert not found.is_classified


@pytest.mark.parametrize("n_train", [None, 40])
def test_named_images_are_loaded(n_train):
    part = TrainingSet.of(load("digits"), n_train)
    assert_array_equal(training_set_of(named(part)).images, part.images)


def test_a_file_is_found_from_another_folder(training, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", x_train=training.images, y_train=training.targets)
    monkeypatch.chdir(tmp_path)
    mine = TrainingSet.of(load("mine.npz"))
    monkeypatch.chdir("/")
    assert_array_equal(training_set_of(named(mine)).images, training.images)


def test_images_are_read_once(training, tmp_path, monkeypatch):
    count = []
    read = StoredData.read
    monkeypatch.setattr(StoredData, "read", lambda self: count.append(1) or read(self))
    with stored(training, tmp_path) as reference:
        assert training_set_of(reference) is training_set_of(replace(reference))
    assert len(count) == 1


def test_workers_balance_the_classes_of_named_data():
    weighted = TrainingSet.of(load("digits"), 40, "balanced")
    found = training_set_of(pickle.loads(pickle.dumps(named(weighted))))
    assert_array_equal(found.weights, compute_sample_weight("balanced", weighted.targets))


def test_other_images_are_refused(training, tmp_path):
    with (
        stored(training, tmp_path) as reference,
        pytest.raises(DatasetError, match=r"have digest [0-9a-f]{64}, expected 0000"),
    ):
        training_set_of(replace(reference, digest="0000"))
    with pytest.raises(DatasetError, match="expected"):
        training_set_of(Reference(NamedData("digits", None, 39), training.digest))


@pytest.mark.parametrize("chosen", [None, np.array([5, 1, 2])])
def test_images_in_a_file_stay_there_on_this_machine(tmp_path, rng, chosen):
    pixels = rng.integers(0, 256, (7, 4, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    images = images_in(tmp_path / "x.npy")
    if chosen is not None:
        images, pixels = images.at(chosen), pixels[chosen]
    training = TrainingSet(images, np.arange(len(pixels)) % 2, 2)
    with stored(training, tmp_path, copied=False) as reference:
        copies = list(Path(reference.place.folder).glob("images.npy"))
        found = training_set_of(pickle.loads(pickle.dumps(reference)))
        assert copies == []
        assert found.on_disk
        assert_array_equal(found.images[:], pixels)
    with stored(training, tmp_path) as reference:
        assert not training_set_of(reference).on_disk
