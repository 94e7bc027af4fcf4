"""The binary version of CIFAR-10: records of one label byte and 3 x 32 x 32 pixels.

The other version is Python pickles, which this package does not read: opening one runs what is
in it.
"""

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import LabelArray
from varpro_nn.data.packed import FileOrBytes, describe, open_packed, read_limited
from varpro_nn.errors import DatasetError

IMAGE_SHAPE = (3, 32, 32)
_N_CLASSES = 10
_RECORD = 1 + 3 * 32 * 32
_MOST_RECORDS = 1_000_000


def read_cifar_binary(*files: FileOrBytes) -> tuple[NDArray[np.uint8], LabelArray]:
    """Read batches of CIFAR-10 from files or their contents, gzipped or not, one after the other.

    Returns
    -------
    images : ndarray of uint8, shape (n, 3, 32, 32)
    labels : ndarray of int64, shape (n,)

    Raises
    ------
    DatasetError
        A file cannot be read, is empty, is not a whole number of records (or more than a
        million), or has a label above 9.
    ValueError
        No file.
    """
    if not files:
        msg = "read_cifar_binary needs at least one file, got none."
        raise ValueError(msg)
    batches = [_records(file) for file in files]
    n = sum(map(len, batches))
    images = np.empty((n, *IMAGE_SHAPE), dtype=np.uint8)
    labels = np.empty(n, dtype=np.int64)
    start = 0
    for batch in batches:
        stop = start + len(batch)
        labels[start:stop] = batch[:, 0]
        images[start:stop] = batch[:, 1:].reshape(-1, *IMAGE_SHAPE)
        start = stop
    return images, labels


def _records(file: FileOrBytes) -> NDArray[np.uint8]:
    where = describe(file)
    limit = _MOST_RECORDS * _RECORD
    with open_packed(file) as stream:
        content = read_limited(stream, limit + 1)
    if not content or len(content) % _RECORD or len(content) > limit:
        msg = (
            f"{where}: must be 1 to {_MOST_RECORDS} records of {_RECORD} bytes (label and image), "
            f"got {len(content)} bytes ({len(content) / _RECORD:.2f} records)."
        )
        raise DatasetError(msg)
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)
    largest = int(records[:, 0].max())
    if largest >= _N_CLASSES:
        first = int(np.argmax(records[:, 0] >= _N_CLASSES))
        msg = f"{where}: labels must be 0 to 9, got {records[first, 0]} in record {first}."
        raise DatasetError(msg)
    return records
