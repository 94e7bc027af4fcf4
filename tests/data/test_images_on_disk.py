"""Images in a file: what is read is what an array in memory would give."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import Network, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data import images_on_disk
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.output import features
from varpro_nn.output.ridge_fit import fit_ridge


@pytest.fixture(params=["uint8", "<f4", "<f8"])
def both(request, rng, tmp_path):
    """The same images in memory and in a file, behind a header of 24 bytes."""
    array = rng.integers(0, 255, (40, 2, 3, 5)).astype(request.param)
    (tmp_path / "images").write_bytes(bytes(24) + array.tobytes())
    return array, ImagesOnDisk(tmp_path / "images", 24, array.shape, array.dtype, array.dtype)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    "index",
    [
        *(slice(None), slice(3, 9), slice(-4, None), slice(9, 3), slice(30, 99), slice(2, 30, 7)),
        *(slice(None, None, -1), 5, -1, [5], [7, 3, 3, -1], np.array([], dtype=int)),
        np.arange(40) % 3 == 0,
    ],
    ids=str,
)
def test_an_index_gives_what_it_gives_in_memory(index, both):
    array, on_disk = both
    found = on_disk[index]
    assert_array_equal(found, array[index])
    assert found.dtype == array.dtype
    found[...] = 0  # it is memory of its own
    assert_array_equal(on_disk[index], array[index])


def test_it_looks_like_an_array(both):
    array, on_disk = both
    assert (on_disk.shape, on_disk.dtype, on_disk.ndim) == (array.shape, array.dtype, 4)
    assert len(on_disk) == 40


def test_it_becomes_an_array_and_can_be_gone_through(both):
    array, on_disk = both
    assert_array_equal(np.asarray(on_disk), array)
    assert_array_equal(np.asarray(on_disk, dtype=np.float32), array.astype(np.float32))
    assert_array_equal(np.stack(list(on_disk)), array)


def test_blocks_are_small_and_complete(both, monkeypatch):
    array, on_disk = both
    monkeypatch.setattr(images_on_disk, "BLOCK_BYTES", 3 * array[0].nbytes + 1)
    blocks = list(on_disk.blocks())
    assert [len(block) for block in blocks] == [3] * 13 + [1]
    assert_array_equal(np.concatenate(blocks), array)


def test_a_part_stays_on_disk(both):
    array, on_disk = both
    part = on_disk.between(7, 19)
    assert isinstance(part, ImagesOnDisk)
    assert_array_equal(part[:], array[7:19])
    assert_array_equal(part.between(2, 4)[:], array[9:11])


def test_chosen_images_stay_on_disk(both, monkeypatch):
    array, on_disk = both
    positions = np.array([3, 4, 5, 9, 2, 39])
    chosen = on_disk.at(positions)
    assert isinstance(chosen, ImagesOnDisk)
    assert_array_equal(chosen[:], array[positions])
    assert_array_equal(chosen[[5, 0]], array[[39, 3]])
    assert_array_equal(chosen.between(2, 5)[:], array[[5, 9, 2]])
    assert_array_equal(chosen.at(np.array([1, 4]))[:], array[[4, 2]])
    assert_array_equal(chosen.astype(np.float64)[:], array[positions].astype(np.float64))
    monkeypatch.setattr(images_on_disk, "BLOCK_BYTES", 2 * array[0].nbytes)
    assert_array_equal(np.concatenate(list(chosen.blocks())), array[positions])


@pytest.mark.parametrize("index", [(0, 1), (slice(2), 0), 40, [-41], [0.5], np.ones(3, dtype=bool)])
def test_what_is_no_index(index, both):
    with pytest.raises(IndexError):
        both[1][index]


def test_a_file_that_has_become_shorter(both):
    array, on_disk = both
    content = on_disk.path.read_bytes()
    on_disk.path.write_bytes(content[:-1])
    assert_array_equal(on_disk[:39], array[:39])
    with pytest.raises(OSError, match="the file ends within image 39"):
        on_disk[:]


def test_memory_does_not_depend_on_the_number_of_images(tmp_path, monkeypatch):
    """Sums, leave-one-out errors and outputs go block by block; labels alone are all there."""
    monkeypatch.setattr(features, "BLOCK_BYTES", 2**16)
    monkeypatch.setattr(images_on_disk, "BLOCK_BYTES", 2**16)
    monkeypatch.setattr("varpro_nn.output.ridge_fit.MOST_LEFT_OUT", 500)
    rng = np.random.default_rng(0)
    units = whole_image_units("bilinear", (28, 28), 20)
    W = rng.standard_normal((20, 57)).astype(np.float32)
    peaks = []
    for n in (4000, 40_000):
        rng.integers(0, 255, (n, 28, 28), dtype=np.uint8).tofile(tmp_path / "images")
        byte = np.dtype(np.uint8)
        images = ImagesOnDisk(tmp_path / "images", 0, (n, 28, 28), byte, byte)
        labels = np.arange(n) % 10
        tracemalloc.start()
        A = fit_ridge(units, W, TrainingSet(images, labels, 10), Compute()).A
        Network(units, W, A, np.arange(10), (28, 28)).predict_codes(images)
        peaks.append(tracemalloc.get_traced_memory()[1] - labels.nbytes)
        tracemalloc.stop()
    assert peaks[0] < 40_000 * 28 * 28  # the images alone would be more
    assert peaks[1] < 1.2 * peaks[0]
