from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import configure, learn_maps, load, patch_units, run, units_on_maps
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.training import layer_inputs as module
from varpro_nn.training import subnetwork_counts
from varpro_nn.training.estimate import estimate
from varpro_nn.training.layer_inputs import layer_inputs, maps_bytes


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def on_maps(digits, rng):
    images = digits.train.images[:200]
    lower = patch_units("dense", (8, 8), 3, window=3, grid=4)
    W = lower.init(images, rng).astype(np.float32)
    below = learn_maps(lower, W, images, rng, window=2, epsilon=0.1, n_components=5)
    return units_on_maps(patch_units("dense", below.shape, 4, window=1, grid=2), below)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_maps_in_a_file_are_those_in_memory(n_jobs, on_maps, digits, tmp_path, monkeypatch):
    images = digits.train.images[:200]
    with layer_inputs(on_maps, images, tmp_path) as (units, expected):
        assert isinstance(expected, np.ndarray)
        assert list(tmp_path.iterdir()) == []
    assert maps_bytes(on_maps, 200) == expected.nbytes
    assert_array_equal(on_maps.below(images), expected, strict=True)
    monkeypatch.setattr(module, "AT_A_TIME", 64)
    with (
        thread_pool(n_jobs) as threads,
        layer_inputs(on_maps, images, tmp_path, threads) as (_, in_memory),
    ):
        assert_array_equal(in_memory, expected, strict=True)
    monkeypatch.setattr(module, "MAPS_BYTES", expected.nbytes - 1)
    with (
        thread_pool(n_jobs) as threads,
        layer_inputs(on_maps, images, tmp_path, threads) as (same, inputs),
    ):
        assert isinstance(inputs, ImagesOnDisk)
        assert same == units
        assert_array_equal(inputs[:], expected, strict=True)
        rows = np.array([150, 3, 3, 77])
        assert_array_equal(inputs[rows], expected[rows], strict=True)
    assert list(tmp_path.iterdir()) == []


def test_units_of_one_layer_take_the_images(digits):
    units = patch_units("dense", (8, 8), 4, window=3, grid=2)
    assert maps_bytes(units, 200) == 0
    with layer_inputs(units, digits.train.images) as (same, inputs):
        assert same is units
        assert inputs is digits.train.images


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_network_is_the_same_with_its_maps_in_files(n_jobs, digits, tmp_path, monkeypatch):
    """Worker processes start anew, with the limit as it is: only this process has files here."""
    config = configure(
        "default", data=digits, first_units=6, middle_units=10, n_units=12, output_layer="ridge",
        n_copies=0, batch_size=300, max_nfev=2, n_rounds=2, n_train=700,
    )  # fmt: skip
    expected = run(config, digits, n_jobs=1).network
    made = []
    real = module.ImagesOnDisk
    monkeypatch.setattr(module, "MAPS_BYTES", 1)
    monkeypatch.setattr(module, "ImagesOnDisk", lambda *a: made.append(a[0]) or real(*a))
    network = run(config, digits, n_jobs=n_jobs, shard_folder=tmp_path).network
    assert_array_equal(network.W, expected.W)
    assert_array_equal(network.A, expected.A)
    assert len(made) == (4 if n_jobs == 1 else 0)  # two layers, two rounds
    assert all(path.parent.parent == tmp_path and not path.exists() for path in made)


def test_the_estimate_counts_the_file_and_not_the_memory(digits, monkeypatch):
    config = configure("default", data=digits, first_units=6, n_units=12, n_copies=0)
    many = replace(digits, train=digits.train.take(np.arange(60_000) % len(digits.train)))
    in_memory = estimate(config, many, n_jobs=1)
    assert in_memory.temporary_mib == 0
    for each in (module, subnetwork_counts):
        monkeypatch.setattr(each, "MAPS_BYTES", 1)
    in_file = estimate(config, many, n_jobs=1)
    assert in_file.temporary_mib > 0
    assert in_file.disk_mib > in_memory.disk_mib
    of_maps = 60_000 * 4 * 5**2 * (6 * 2 * 2**2) / 2**20  # 48 directions at 5 x 5 places
    assert in_file.temporary_mib == pytest.approx(of_maps)
    names = [step.name for step in in_memory.steps]
    assert names[:2] == ["first layer", "sub-networks"]
    # Beside the first layer, because the memory of this process has changed meanwhile.
    more = [found.steps[1].memory_mib - found.steps[0].memory_mib for found in (in_memory, in_file)]
    assert more[0] - more[1] == pytest.approx(of_maps * (1 - module.AT_A_TIME / 60_000))
