"""Arrays of images that stay in their file, and may be larger than memory.

An array is read block by block, on demand, into new memory. It is not mapped: pages of a mapped
file count as memory of the process, and accumulate in a pass over the file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**24
"""Bytes that :meth:`ImagesOnDisk.blocks` reads at a time."""


@dataclass(frozen=True, slots=True)
class ImagesOnDisk:
    """An array in a file in C order; read by slices and positions.

    Attributes
    ----------
    offset : int
        Position of the first image in the file, in bytes.
    shape : tuple of int
        (n, rows, columns) or (n, channels, rows, columns), as they are read.
    dtype : numpy.dtype
        Type as it is read.
    stored : numpy.dtype
        Type in the file.
    channels_last : bool
        Whether the file has (n, rows, columns, channels), several channels.
    chosen : ndarray of int, shape (n,), optional
        Positions in the file, counted from ``offset``. None: 0 to n - 1.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: np.dtype[Any]
    channels_last: bool = False
    chosen: NDArray[np.int64] | None = field(default=None, compare=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in the file."""
        return math.prod(self.shape[1:]) * self.stored.itemsize

    def astype(self, dtype: Any) -> "ImagesOnDisk":
        """Images that are converted as they are read."""
        return replace(self, dtype=np.dtype(dtype))

    def with_channels_first(self) -> "ImagesOnDisk":
        """Images of (n, rows, columns, channels) that are read with their channels first."""
        n, rows, columns, channels = self.shape
        return replace(self, shape=(n, channels, rows, columns), channels_last=channels > 1)

    def reshape(self, *shape: int) -> "ImagesOnDisk":
        """Images whose axis of a single channel is added or removed."""
        return replace(self, shape=shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for block in self.blocks():
            yield from block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            msg = "images on disk cannot be an array without a copy."
            raise ValueError(msg)
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Images at a slice, a position, positions, or a mask, as an array.

        Raises
        ------
        IndexError
            A position outside the array, or another kind of index.
        OSError
            The file cannot be read, or is shorter than it was.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            return self._read(start, max(stop - start, 0))
        if isinstance(index, int | np.integer):
            return self[np.array([index])][0]
        positions = np.asarray(None if isinstance(index, tuple) else index)
        if positions.dtype == np.bool_ and positions.shape == (len(self),):
            positions = np.flatnonzero(positions)
        if positions.ndim != 1 or positions.dtype.kind not in "iu":
            msg = f"images on disk are read by slices, positions or a mask, got {index!r}."
            raise IndexError(msg)
        if len(positions) and not -len(self) <= positions.min() <= positions.max() < len(self):
            msg = f"positions must be within {len(self)} images, got up to {positions.max()}."
            raise IndexError(msg)
        found = np.empty((len(positions), *self.shape[1:]), dtype=self.dtype)
        for place in np.argsort(positions, kind="stable"):  # in the order of the file
            found[place] = self._read(int(positions[place]) % len(self), 1)[0]
        return found

    def between(self, start: int, stop: int) -> "ImagesOnDisk":
        """Images ``start`` to ``stop - 1``, still on disk."""
        shape = (stop - start, *self.shape[1:])
        if self.chosen is not None:
            return replace(self, chosen=self.chosen[start:stop], shape=shape)
        return replace(self, offset=self.offset + start * self.image_bytes, shape=shape)

    def at(self, positions: NDArray[np.int64]) -> "ImagesOnDisk":
        """Images at positions from 0 to n - 1, still on disk."""
        chosen = positions if self.chosen is None else self.chosen[positions]
        return replace(self, chosen=chosen, shape=(len(chosen), *self.shape[1:]))

    @property
    def places(self) -> NDArray[np.int64]:
        """Positions in the file, (n,), counted from ``offset``."""
        return np.arange(len(self)) if self.chosen is None else self.chosen

    def at_places(self, places: NDArray[np.int64]) -> "ImagesOnDisk":
        """Images at positions in the file, (m,), counted from ``offset``, still on disk."""
        return replace(self, chosen=places, shape=(len(places), *self.shape[1:]))

    def same_file(self, other: "ImagesOnDisk") -> bool:
        """Whether the other images are of the same array in the same file."""
        return self == replace(other, shape=(len(self), *other.shape[1:]))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All images, some at a time."""
        size = max(1, BLOCK_BYTES // max(self.image_bytes, 1))
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def _read(self, start: int, count: int) -> NDArray[Any]:
        if self.chosen is None:
            return self._read_file(start, count)
        at = self.chosen[start : start + count]
        found = np.empty((len(at), *self.shape[1:]), dtype=self.dtype)
        ends = [0, *(np.flatnonzero(np.diff(at) != 1) + 1).tolist(), len(at)]
        for first, last in pairwise(ends):  # neighbours in the file are read together
            if first < last:
                found[first:last] = self._read_file(int(at[first]), last - first)
        return found

    def _read_file(self, start: int, count: int) -> NDArray[Any]:
        n_values = count * math.prod(self.shape[1:])
        offset = self.offset + start * self.image_bytes
        flat = np.fromfile(self.path, dtype=self.stored, count=n_values, offset=offset)
        if len(flat) != n_values:
            msg = f"{self.path}: the file ends within image {start + count - 1}"
            raise OSError(msg)
        if self.channels_last:
            channels, rows, columns = self.shape[1:]
            flat = np.moveaxis(flat.reshape(count, rows, columns, channels), -1, 1)
        return flat.reshape(count, *self.shape[1:]).astype(self.dtype, order="C", copy=False)
