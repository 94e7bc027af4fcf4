import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.data import NAMES, load
from varpro_nn.data.fetch.catalog import FILE_SETS
from varpro_nn.errors import DatasetError


def test_unknown_name():
    with pytest.raises(ValueError, match=r"mnist, fashion-mnist, cifar10, digits.*got 'MNIST'"):
        load("MNIST")


def test_digits():
    from sklearn.datasets import load_digits

    data = load("digits")
    images, labels = load_digits(return_X_y=True)
    assert (len(data.train), len(data.test)) == (1500, 297)
    assert data.train.images.dtype == np.float32
    both = np.concatenate([data.train.images, data.test.images])
    assert_allclose(both.reshape(1797, 64) * 16, images)
    assert (both.min(), both.max()) == (0, 1)
    assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), labels)
    assert_array_equal(data.classes, np.arange(10))


def test_offline_finds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("VARPRO_NN_DATA", str(tmp_path / "mine"))
    with pytest.raises(DatasetError) as caught:
        load("mnist", offline=True)
    assert "4 of 4 files were not found" in str(caught.value)
    assert f"into {tmp_path / 'mine' / 'mnist'}" in str(caught.value)
    with pytest.raises(DatasetError, match=str(tmp_path / "argument" / "mnist")):
        load("mnist", tmp_path / "argument", offline=True)
    monkeypatch.setenv("VARPRO_NN_DATA", "")  # as if unset
    with pytest.raises(DatasetError, match=str(tmp_path / "cache" / "varpro_nn" / "mnist")):
        load("mnist", offline=True)


def test_catalog():
    assert set(NAMES) == {*FILE_SETS, "digits"}
    files = [file for file_set in FILE_SETS.values() for file in file_set.files]
    assert len({file.sha256 for file in files}) == len(files) == 4 + 4 + 6
    for file_set in FILE_SETS.values():
        for source in file_set.sources:
            assert source.name.startswith(("https://", "pip ", "npm ", "apt-get "))


def test_import_is_light():
    heavy = ["sklearn", "pooch", "tqdm", "requests", "PIL"]
    code = f"import sys, varpro_nn.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def real(name):
    try:
        return load(name, progress=False)
    except DatasetError as error:
        if "files were not found" in str(error):  # no network, no package manager: no fault
            pytest.skip(str(error))
        raise


def check_counts(data, train, test):
    for part, expected in ((data.train, train), (data.test, test)):
        assert_array_equal(np.bincount(part.labels, minlength=10), expected)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == data.image_shape


def test_mnist():
    """The published mean and standard deviation, and the class counts."""
    data = real("mnist")
    assert data.image_shape == (28, 28)
    assert_allclose(data.train.images.mean(), 33.3184, atol=5e-5)
    assert_allclose(data.train.images.std(), 78.5675, atol=5e-5)
    check_counts(
        data,
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )


@pytest.mark.slow
def test_fashion_mnist():
    data = real("fashion-mnist")
    assert data.image_shape == (28, 28)
    assert_allclose(data.train.images.mean(), 72.9404, atol=5e-5)
    check_counts(data, [6000] * 10, [1000] * 10)


@pytest.mark.slow
def test_cifar10():
    data = real("cifar10")
    assert data.image_shape == (3, 32, 32)
    means = data.train.images.mean(axis=(0, 2, 3))
    assert_allclose(means, [125.307, 122.950, 113.865], atol=5e-4)
    check_counts(data, [5000] * 10, [1000] * 10)
