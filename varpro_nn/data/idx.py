"""IDX files, the format of MNIST: ``00 00 type rank``, the dimensions, then the array.

The dimensions are 32-bit big-endian numbers. Only unsigned bytes (type code 8) are read: no
data set of images in this format has another type.
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

from varpro_nn.data.packed import FileOrBytes, Readable, describe, open_packed, read_limited
from varpro_nn.errors import DatasetError

_UNSIGNED_BYTE = 0x08
_LARGEST_RANK = 4
_MOST_BYTES = 1 << 32


def read_idx(file: FileOrBytes) -> NDArray[np.uint8]:
    """Read an array from an IDX file of unsigned bytes, or from its content, gzipped or not.

    Raises
    ------
    DatasetError
        The file cannot be read; wrong magic number, type or rank; more or fewer bytes than the
        dimensions ask for; an array of more than 4 GiB.
    """
    where = describe(file)
    with open_packed(file) as stream:
        shape = read_idx_header(stream, where)
        expected = math.prod(shape)
        content = read_limited(stream, expected + 1)
    if len(content) != expected:
        found = f"{len(content)} bytes" if len(content) < expected else "more"
        msg = f"{where}: IDX dimensions {shape} ask for {expected} bytes, got {found}."
        raise DatasetError(msg)
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def read_idx_header(stream: Readable, where: str) -> tuple[int, ...]:
    """Read the dimensions; the stream stands at the array afterwards.

    Raises
    ------
    DatasetError
        Wrong magic number, type or rank, or an array of more than 4 GiB.
    """
    magic = read_limited(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        msg = f"{where}: not an IDX file: must begin with 00 00 08 rank, got {magic.hex(' ')}."
        raise DatasetError(msg)
    type_code, rank = magic[2], magic[3]
    if type_code != _UNSIGNED_BYTE:
        msg = f"{where}: IDX type must be 0x08 (unsigned byte), got {type_code:#04x}."
        raise DatasetError(msg)
    if not 1 <= rank <= _LARGEST_RANK:
        msg = f"{where}: IDX rank must be 1 to {_LARGEST_RANK}, got {rank}."
        raise DatasetError(msg)
    header = read_limited(stream, 4 * rank)
    if len(header) < 4 * rank:
        msg = f"{where}: IDX header must have {4 + 4 * rank} bytes, got {4 + len(header)}."
        raise DatasetError(msg)
    shape = struct.unpack(f">{rank}I", header)
    # A dimension of 0 makes the product 0, whatever the others claim.
    if math.prod(max(dimension, 1) for dimension in shape) > _MOST_BYTES:
        msg = f"{where}: IDX dimensions {shape} ask for more than {_MOST_BYTES} bytes."
        raise DatasetError(msg)
    return shape
