import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info, threadpool_limits

from varpro_nn import learn_maps, patch_units, units_on_maps, whole_image_units
from varpro_nn.data.folder import images_in
from varpro_nn.data.images import intensities
from varpro_nn.linalg import column_tiles
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output import features
from varpro_nn.output.features import (
    TASK_IMAGES,
    block_features,
    block_slices,
    feature_blocks,
    images_at_a_time,
)
from varpro_nn.units import Maps


class TwoCells:
    """Each unit looks at the left and at the right half of an image with the same weights."""

    n_units, n_cells, n_weights = 4, 2, 6

    def init(self, inputs, rng):
        return rng.integers(-3, 4, (self.n_units, self.n_weights)).astype(float)

    def features(self, W, inputs):
        cells = [inputs[:, :, :2].reshape(len(inputs), -1) @ W.T]
        cells.append(inputs[:, :, 2:].reshape(len(inputs), -1) @ W.T)
        return np.concatenate(cells, axis=1)


def test_column_c_h_plus_i_is_cell_c_of_unit_i(rng):
    """Small whole numbers: every sum is exact, so tiles must not change a bit."""
    units = TwoCells()
    h = 1100
    assert len(column_tiles(h)) == 3
    W = rng.integers(-3, 4, (h, 6)).astype(np.float32)
    images = rng.integers(0, 5, (7, 3, 4)).astype(np.float32)
    Phi = block_features(units, W, images)
    assert_array_equal(Phi, units.features(W, images), strict=True)
    assert Phi[5, h + 600] == W[600] @ images[5][:, 2:].ravel()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_image_units_in_tiles_are_what_they_are_at_once(dtype, rng):
    units = whole_image_units("quadratic", (5, 5), 10)
    W = rng.standard_normal((700, 6)).astype(dtype)
    images = rng.integers(0, 256, (9, 5, 5), dtype=np.uint8)
    Phi = block_features(units, W, images)
    assert Phi.dtype == dtype
    tolerance = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(Phi, units.features(W, images), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_jobs", "n_calls"), [(1, 1), (2, 2)])
def test_maps_are_computed_once_if_all_threads_have_images(
    n_jobs, n_calls, dtype, rng, monkeypatch
):
    images = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    lower = patch_units("dense", (8, 8), 3, window=3, grid=4)
    W = lower.init(images, rng).astype(np.float32)
    below = learn_maps(lower, W, images, rng, window=2, epsilon=0.1, n_components=5)
    top = patch_units("dense", below.shape, 9, window=1, grid=2)
    units = units_on_maps(top, below, cells_below=2)
    W = units.init(images, rng).astype(dtype)
    intense = intensities(images, dtype)
    expected = np.hstack([units.features(W, intense), below.with_cells(intense, 2, dtype)[1]])
    calls = []
    real = Maps.with_cells
    monkeypatch.setattr(Maps, "with_cells", lambda *a, **k: calls.append(1) or real(*a, **k))
    monkeypatch.setattr(features, "column_tiles", lambda h: [slice(0, 4), slice(4, h)])
    with thread_pool(n_jobs) as threads:
        assert_array_equal(block_features(units, W, images, threads), expected, strict=True)
    assert len(calls) == n_calls


def test_threads_change_no_bit(rng):
    units = whole_image_units("bilinear", (8, 8), 10)
    W = rng.standard_normal((1300, 17)).astype(np.float32)
    images = rng.random((50, 8, 8))
    with thread_pool(1) as threads:
        assert threads is None
        one = block_features(units, W, images, threads)
    for n_jobs in (2, 3, 5):
        with thread_pool(n_jobs) as threads:
            assert_array_equal(block_features(units, W, images, threads), one)


def test_an_error_in_a_thread_is_raised_here(rng):
    units = whole_image_units("bilinear", (8, 8), 10)
    with thread_pool(2) as threads, pytest.raises(ValueError, match="inputs must be images"):
        block_features(units, np.zeros((1300, 17), np.float32), rng.random((5, 8, 9)), threads)


def test_blocks_are_the_features_of_their_images(rng, monkeypatch):
    monkeypatch.setattr(features, "BLOCK_BYTES", 1)
    units = whole_image_units("bilinear", (8, 8), 10)
    W, images = rng.standard_normal((5, 17)), rng.integers(0, 256, (600, 8, 8), dtype=np.uint8)
    whole = block_features(units, W, images)
    found = list(feature_blocks(units, W, images))
    assert [rows for rows, _ in found] == block_slices(600, 5)
    assert_array_equal(np.concatenate([Phi for _, Phi in found]), whole)
    chosen = [np.array([7, 3]), slice(590, None)]
    for given, (rows, Phi) in zip(
        chosen, feature_blocks(units, W, images, blocks=chosen), strict=True
    ):
        assert rows is given
        # A product of few rows may take another way through BLAS than one of many.
        assert_allclose(Phi, whole[rows], rtol=1e-13, atol=1e-15)
    (first, *_) = feature_blocks(units, W, images, view=lambda block: block[..., ::-1])
    assert_array_equal(first[1], block_features(units, W, images[:256, :, ::-1]))


@pytest.mark.parametrize(
    "rows", [slice(None), slice(3, 1500), np.random.default_rng(0).permutation(2000)[:1300]]
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_few_images_of_a_block_are_in_memory_and_no_bit_changes(
    rows, n_jobs, rng, tmp_path, monkeypatch
):
    units = whole_image_units("bilinear", (3, 8, 8), 10)
    W = units.init(np.zeros((9, 3, 8, 8)), rng).astype(np.float32)
    pixels = rng.integers(0, 256, (2000, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    images = images_in(tmp_path / "x.npy")
    expected = block_features(units, W, pixels[rows])
    monkeypatch.setattr(features, "SPAN_BYTES", 2 * 4 * 192 * TASK_IMAGES)
    assert images_at_a_time((3, 8, 8)) == 2 * TASK_IMAGES
    read = []
    monkeypatch.setattr(
        features,
        "intensities",
        lambda some, dtype: read.append(len(some)) or intensities(some, dtype),
    )
    with thread_pool(n_jobs) as threads:
        ((_, Phi),) = feature_blocks(units, W, images, threads, blocks=[rows])
    assert_array_equal(Phi, expected)
    assert max(read) == 2 * TASK_IMAGES
    assert sum(read) == len(expected)


@pytest.mark.parametrize("n_columns", [0, 1, 5200, 10**6])
@pytest.mark.parametrize("n", [1, 255, 256, 257, 60_000])
def test_blocks_cover_every_image_once_and_keep_to_the_bytes(n, n_columns):
    slices = block_slices(n, n_columns)
    assert_array_equal(np.concatenate([np.arange(n)[rows] for rows in slices]), np.arange(n))
    longest = max(rows.stop - rows.start for rows in slices)
    assert longest <= 256 or longest * 4 * n_columns <= features.BLOCK_BYTES


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_one_thread_of_blas_among_threads(n_jobs):
    def counts():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with thread_pool(n_jobs) as threads:
            assert (counts() if threads is None else threads.submit(counts).result()) == {1}
        assert counts() == before


def test_callers_that_overlap_share_one_limit_of_blas():
    """The number of threads is 1 while anyone is inside, and afterwards what it was before."""

    def blas_threads():
        return {e["num_threads"] for e in threadpool_info() if e["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        first, second = thread_pool(1), thread_pool(2)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before
