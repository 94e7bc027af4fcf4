"""Windows of an image: where they lie, how they are collected, and the cells they fall into.

Collecting the windows of an image is a linear map with entries 0 and 1. The units use two fast
forms of it, one for each direction of the work:

- :meth:`Windows.collect_rows` has the images innermost: windows are copied in long contiguous runs,
  and stay in cache. Features use this form.
- :meth:`Windows.collect` has the pixels of a window innermost and the windows of one cell side
  by side: a derivative sums over the windows of a cell, a small matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import RealArray

BAND = 512
"""Largest number of values, for each pixel of a window, in a band of more than one row."""


@lru_cache(maxsize=256)
def cell_bounds(n_places: int, n_cells: int) -> NDArray[np.int64]:
    """Return the first place of each cell, then the number of places.

    Sizes of cells differ by at most one place. All callers share the array, so it is read-only.
    """
    bounds = np.round(np.linspace(0, n_places, n_cells + 1)).astype(np.int64)
    bounds.setflags(write=False)
    return bounds


@lru_cache(maxsize=256)
def _sizes(n_places: int, n_cells: int) -> NDArray[np.int64]:
    sizes = np.diff(cell_bounds(n_places, n_cells))
    sizes.setflags(write=False)
    return sizes


def cell_sizes(bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the places of each cell; ``bounds`` comes from :func:`cell_bounds`."""
    return _sizes(int(bounds[-1]), len(bounds) - 1)


@lru_cache(maxsize=256)
def _places_of_cells(
    n_places: int, n_cells: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]]:
    """First places of all cells, second ones and so on; the larger cells, and their last places."""
    bounds, sizes = cell_bounds(n_places, n_cells), _sizes(n_places, n_cells)
    each = [bounds[:-1] + place for place in range(sizes.min())]
    larger = np.flatnonzero(sizes > sizes.min())  # by one place
    return each, larger, bounds[larger + 1] - 1


def sums_of_cells(values: RealArray, bounds: NDArray[np.int64], axis: int) -> RealArray:
    """Sum up the places of each cell along an axis; ``bounds`` comes from :func:`cell_bounds`."""
    # The first place of every cell, then the second, and so on: faster than np.add.reduceat.
    (first, *others), larger, last = _places_of_cells(int(bounds[-1]), len(bounds) - 1)
    sums = values.take(first, axis)
    for places in others:
        sums += values.take(places, axis)
    if larger.size:
        sums[(slice(None),) * axis + (larger,)] += values.take(last, axis)
    return sums


@dataclass(frozen=True)
class Windows:
    """All places of a square window in an image, cut into a grid of cells.

    Attributes
    ----------
    image_shape : tuple of int
        (rows, columns) or (channels, rows, columns). A window spans all channels.
    grid : int
        Cells along each side; places fall into ``grid ** 2`` cells of as equal size as can be.
    """

    image_shape: tuple[int, ...]
    window: int
    stride: int
    grid: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one window: that of the image with sides of length ``window``."""
        return (*self.image_shape[:-2], self.window, self.window)

    @property
    def n_pixels(self) -> int:
        """Numbers in one window."""
        return prod(self.shape)

    @property
    def places(self) -> tuple[int, int]:
        """Places along rows and columns."""
        rows, columns = self.image_shape[-2:]
        return (rows - self.window) // self.stride + 1, (columns - self.window) // self.stride + 1

    def bounds(self, axis: int) -> NDArray[np.int64]:
        """First place of each cell along ``axis`` (0 or 1), then the number of places."""
        return cell_bounds(self.places[axis], self.grid)

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], list[slice]]:
        """Pixels of all windows, cell by cell (places * n_pixels,); places of each cell."""
        rows, columns = (np.arange(n) for n in self.places)
        pixel = np.arange(prod(self.image_shape)).reshape(-1, *self.image_shape[-2:])
        inside = pixel[:, : self.window, : self.window].ravel()
        corner = pixel[0, :: self.stride, :: self.stride]
        vertical, horizontal = self.bounds(0), self.bounds(1)
        order, cells, start = [], [], 0
        for top, bottom in pairwise(vertical):
            for left, right in pairwise(horizontal):
                corners = corner[np.ix_(rows[top:bottom], columns[left:right])].ravel()
                order.append((corners[:, None] + inside).ravel())
                cells.append(slice(start, start + corners.size))
                start += corners.size
        return np.concatenate(order), cells

    @property
    def cells(self) -> list[slice]:
        """Places of each cell in the order of :meth:`collect`."""
        return self._order[1]

    def collect(self, X: RealArray) -> RealArray:
        """Windows of images ``X`` (b, ...), cell by cell: (b, places, n_pixels)."""
        taken = np.take(X.reshape(len(X), -1), self._order[0], axis=1, mode="clip")
        return taken.reshape(len(X), -1, self.n_pixels)

    def bands(self, n_values: int) -> Iterator[tuple[int, slice]]:
        """Cut the rows of places into bands that are worked on at a time.

        Parameters
        ----------
        n_values : int
            Numbers of one row of places, for each pixel of a window.

        Yields
        ------
        cell : int
            Number of a row of cells.
        rows : slice
            Rows of places in it: at most :data:`BAND` values for each pixel, but at least one row.
        """
        n_rows = max(1, BAND // n_values)
        for cell, (top, bottom) in enumerate(pairwise(self.bounds(0).tolist())):
            for start in range(top, bottom, n_rows):
                yield cell, slice(start, min(start + n_rows, bottom))

    def collect_rows(self, X: RealArray, rows: slice, out: RealArray) -> None:
        """Collect the windows of some rows of places.

        Parameters
        ----------
        X : ndarray, shape (channels, rows, columns, b)
            Images innermost, contiguous.
        rows : slice
        out : ndarray, shape (n_pixels, rows, columns of places, b)
            Takes the windows; contiguous.
        """
        _, n_rows, n_columns, b = out.shape
        c, y, x, s = X.strides
        views: RealArray = np.ndarray(  # as_strided takes longer than the copy of one image
            (X.shape[0], self.window, self.window, n_rows, n_columns, b), X.dtype, X,
            rows.start * self.stride * y, (c, y, x, y * self.stride, x * self.stride, s),
        )  # fmt: skip
        np.copyto(out.reshape(views.shape), views)
