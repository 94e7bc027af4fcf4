"""Arrays in files: memory of rows that are not needed at the moment."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DROP = getattr(mmap, "MADV_DONTNEED", None)  # there is none on Windows
_SPAN = 2**25
"""Bytes of the file that rows copied at a time may lie apart."""


def release_rows(array: Any, rows: slice) -> None:
    """Release the memory of rows of an array that maps a file; does nothing to other arrays.

    The rows stay in the file, and mostly in the memory of the system. On Linux they no longer count
    as memory of the process, which otherwise grows to the size of the file in one pass over it.

    Parameters
    ----------
    array : ndarray, shape (n, q)
        C-contiguous, and shared with its file or read only.
    rows : slice
    """
    base = _mapping(array)
    if base is None or _DROP is None:
        return
    start, stop, _ = rows.indices(len(array))
    origin = np.frombuffer(base, np.uint8).ctypes.data
    first, end = (array.ctypes.data - origin + row * array.strides[0] for row in (start, stop))
    # Whole pages: the first and the last may hold other rows, which another thread may be reading.
    first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    end = end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < end:
        base.madvise(_DROP, first, end - first)


@contextmanager
def rows_in_use(array: Any, rows: slice | NDArray[np.intp]) -> Iterator[Any]:
    """Give rows of an array, and release their memory after the block (:func:`release_rows`).

    Parameters
    ----------
    array : ndarray, shape (n, q)
        As in :func:`release_rows`.
    rows : slice, or ndarray of int in ascending order
        Rows chosen by an index are copied, in parts. The system reads the pages around each row
        as well, so a few scattered rows could bring the whole file into memory.
    """
    if isinstance(rows, slice):
        yield array[rows]
        release_rows(array, rows)
    elif len(rows) == 0 or _mapping(array) is None:
        yield array[rows]
    else:
        chosen = np.empty((len(rows), *array.shape[1:]), array.dtype)
        parts = (rows - rows[0]) * array.strides[0] // _SPAN
        bounds = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(rows)]
        for start, stop in pairwise(bounds):
            part = rows[start:stop]
            chosen[start:stop] = array[part]
            release_rows(array, slice(part[0], part[-1] + 1))
        yield chosen


def _mapping(array: Any) -> mmap.mmap | None:
    """Find the file's mapping below an array, if it holds all that was written."""
    base = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return None  # what was written is in memory alone
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
