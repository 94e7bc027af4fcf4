"""Arrays in files: memory of rows that are not needed at the moment."""

import mmap
from typing import Any

import numpy as np

_DROP = getattr(mmap, "MADV_DONTNEED", None)  # there is none on Windows


def release_rows(array: Any, rows: Any) -> None:
    """Release the memory of rows of an array that maps a file; does nothing to other arrays.

    The rows stay in the file, and mostly in the memory of the system. On Linux they no longer count
    as memory of the process, which otherwise grows to the size of the file in one pass over it.

    Parameters
    ----------
    array : ndarray, shape (n, q)
        C-contiguous, and shared with its file or read only.
    rows : slice, or ndarray of int in ascending order
        An index releases all rows between its first and its last.
    """
    base = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return  # what was written is in memory alone
        base = base.base
    if not isinstance(base, mmap.mmap) or _DROP is None:
        return
    if isinstance(rows, slice):
        start, stop, _ = rows.indices(len(array))
    else:
        start, stop = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    origin = np.frombuffer(base, np.uint8).ctypes.data
    first, end = (array.ctypes.data - origin + row * array.strides[0] for row in (start, stop))
    # Whole pages; those at both ends have rows beside, which other threads may be reading.
    first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    end = end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < end:
        base.madvise(_DROP, first, end - first)
