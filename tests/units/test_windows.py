import itertools

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.units import windows as module
from varpro_nn.units.windows import Windows, cell_bounds, sums_of_cells

CASES = [
    pytest.param(Windows(shape, window, stride, grid), id=name)
    for name, shape, window, stride, grid in (
        ("square", (8, 8), 3, 1, 2),
        ("wide", (7, 10), 4, 2, 2),
        ("tall", (11, 8), 3, 2, 2),
        ("colour", (3, 8, 9), 3, 1, 2),
        ("colour_and_stride", (3, 8, 9), 4, 3, 2),
        ("gaps_between_windows", (8, 9), 1, 3, 2),
        ("one_pixel_and_cell", (7, 10), 1, 1, 1),
        ("the_whole_image", (6, 6), 6, 1, 1),
        ("a_cell_for_each_place", (6, 6), 2, 1, 5),
        ("uneven", (9, 8), 3, 1, 4),
    )
]
EVERY_CASE = pytest.mark.parametrize("windows", CASES)


def placed(windows):
    """Row and column of each place in the order of ``collect``, by the bounds of the cells."""
    vertical, horizontal = windows.bounds(0), windows.bounds(1)
    return [
        [
            (y, x)
            for y in range(vertical[a], vertical[a + 1])
            for x in range(horizontal[b], horizontal[b + 1])
        ]
        for a in range(windows.grid)
        for b in range(windows.grid)
    ]


def cut(windows, image, y, x):
    """The window at a place, by slicing."""
    top, left = y * windows.stride, x * windows.stride
    return image[..., top : top + windows.window, left : left + windows.window]


@EVERY_CASE
def test_collected_windows_are_slices_of_the_image(windows, rng):
    images = rng.random((3, *windows.image_shape))
    collected = windows.collect(images)
    places = [place for cell in placed(windows) for place in cell]
    assert collected.shape == (3, len(places), windows.n_pixels)
    for image, taken in zip(images, collected, strict=True):
        for (y, x), window in zip(places, taken, strict=True):
            assert_array_equal(window.reshape(windows.shape), cut(windows, image, y, x))


@EVERY_CASE
def test_collecting_is_a_matrix_of_zeros_and_ones(windows, rng):
    operator = reference.window_operator(windows)
    image = rng.random(windows.image_shape)
    collected = windows.collect(image[None])[0]
    assert operator.shape == (collected.size, image.size)
    assert_array_equal((operator @ image.ravel()).reshape(collected.shape), collected)
    dense = operator
    assert_array_equal(np.unique(dense), [0, 1] if image.size > 1 else [1])
    assert_array_equal(dense.sum(axis=1), 1)
    # Its transpose puts each window back: a pixel comes as often as windows hold it.
    held = np.zeros(windows.image_shape)
    for y, x in itertools.product(*map(range, windows.places)):
        cut(windows, held, y, x)[...] += 1
    assert_allclose(operator.T @ np.ones(collected.size), held.ravel())


@pytest.mark.parametrize("n_rows", [1, 2, 3])
@EVERY_CASE
def test_rows_are_the_same_windows(windows, n_rows, rng, monkeypatch):
    dtype = np.float64 if len(windows.image_shape) == 2 else np.float32
    images = rng.random((4, *windows.image_shape)).astype(dtype)
    channels = images.reshape(4, -1, *windows.image_shape[-2:])
    innermost = np.ascontiguousarray(np.moveaxis(channels, 0, -1))
    before = innermost.copy()
    n_columns = windows.places[1]
    monkeypatch.setattr(module, "BAND", n_rows * n_columns * 4 + 1)
    collected = windows.collect(images)
    assert collected.dtype == dtype
    number = {
        place: i for i, place in enumerate(place for cell in placed(windows) for place in cell)
    }
    seen = []
    for cell, band in windows.bands(n_columns * 4):
        size = band.stop - band.start
        assert 1 <= size <= n_rows
        assert windows.bounds(0)[cell] <= band.start < band.stop <= windows.bounds(0)[cell + 1]
        out = np.full((windows.n_pixels, size, n_columns, 4), np.nan, dtype=dtype)
        windows.collect_rows(innermost, band, out)
        for place, row in enumerate(range(band.start, band.stop)):
            seen.append(row)
            for column in range(n_columns):
                assert_array_equal(out[:, place, column].T, collected[:, number[row, column]])
    assert seen == list(range(windows.places[0]))
    assert_array_equal(innermost, before)


@EVERY_CASE
def test_places_are_as_many_as_fit(windows):
    for n, length in zip(windows.places, windows.image_shape[-2:], strict=True):
        assert (n - 1) * windows.stride + windows.window <= length
        assert n * windows.stride + windows.window > length


@EVERY_CASE
def test_cells_partition_the_places(windows):
    cells = placed(windows)
    assert len(windows.cells) == windows.grid**2
    start = 0
    for cell, expected in zip(windows.cells, cells, strict=True):
        assert (cell.start, cell.stop) == (start, start + len(expected))
        start = cell.stop
    everywhere = itertools.product(*map(range, windows.places))
    assert sorted(itertools.chain(*cells)) == list(everywhere)


@pytest.mark.parametrize("grid", range(1, 9))
def test_cells_differ_by_a_place_at_most(grid):
    for n in range(grid, 40):
        windows = Windows((n + 2, 2 * n + 2), 3, 1, grid)
        for axis, places in ((0, n), (1, 2 * n)):
            bounds = windows.bounds(axis)
            assert (bounds[0], bounds[-1], len(bounds)) == (0, places, grid + 1)
            sizes = np.diff(bounds)
            assert sizes.min() >= 1
            assert np.ptp(sizes) == (places % grid > 0)  # the least that can be


@pytest.mark.parametrize(("n_places", "n_cells"), [(12, 3), (13, 3), (14, 4), (5, 5), (7, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sums_of_cells_are_those_of_their_places(n_places, n_cells, axis, rng):
    bounds = cell_bounds(n_places, n_cells)
    values = np.moveaxis(rng.integers(-9, 9, (n_places, 4, 3)).astype(np.float32), 0, axis)
    before = values.copy()
    expected = [
        values.take(range(first, end), axis).sum(axis) for first, end in itertools.pairwise(bounds)
    ]
    assert_array_equal(sums_of_cells(values, bounds, axis), np.stack(expected, axis))
    assert_array_equal(values, before)
