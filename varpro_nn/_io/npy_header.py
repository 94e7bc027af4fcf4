"""The header of a ``.npy`` array, read with suspicion, and written.

Not by numpy's own reader: on damaged headers that raises whatever Python's tokenizer does, and
it warns, in a way that only the whole process can make an error of.
"""

import ast
import re
import struct
from typing import Any

import numpy as np

_MAGIC = b"\x93NUMPY"
_MOST_BYTES = 4096
"""A header of a plain array has about a hundred bytes."""
_TYPE = re.compile(r"[<>|=][biufcmMOSUV]\d{0,6}(\[\w{1,9}\])?")
"""One type, not a structure of several; which ones they take is for callers to say."""


def read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, whether the order is Fortran's, and type; the stream then stands at the data.

    Raises
    ------
    ValueError
        Another version than 1.0 or 2.0, a structured type, a negative dimension, or whatever is
        damaged.

    References
    ----------
    NumPy Enhancement Proposal 1, A simple file format for NumPy arrays.
    """
    start = stream.read(8)
    if start[:6] != _MAGIC or len(start) < 8:
        msg = f"a .npy array must begin with {_MAGIC!r} and a version, got {start!r}"
        raise ValueError(msg)
    version = start[6], start[7]
    if version not in ((1, 0), (2, 0)):
        msg = f"must have .npy version 1.0 or 2.0, got {version}"
        raise ValueError(msg)
    size_format = "<H" if version == (1, 0) else "<I"
    size_bytes = stream.read(struct.calcsize(size_format))
    whole = len(size_bytes) == struct.calcsize(size_format)
    size = struct.unpack(size_format, size_bytes)[0] if whole else -1
    text = stream.read(size) if 0 <= size <= _MOST_BYTES else b""
    if len(text) != size:
        msg = f"the .npy header must have up to {_MOST_BYTES} bytes, all there, got {size}"
        raise ValueError(msg)
    try:
        header = ast.literal_eval(text.decode("latin1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        msg = f"the .npy header is damaged: {str(error) or type(error).__name__}"
        raise ValueError(msg) from error
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        msg = f"the .npy header must be of descr, fortran_order and shape, got {header!r:.200}"
        raise ValueError(msg)
    descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or not isinstance(fortran, bool):
        msg = f"the .npy header must have a shape, none negative, got {shape!r:.200}, {fortran!r}"
        raise ValueError(msg)
    if not isinstance(descr, str) or not _TYPE.fullmatch(descr):
        msg = f"the .npy header must have one plain type, got {descr!r:.200}"
        raise ValueError(msg)
    try:
        return shape, fortran, np.dtype(descr)
    except TypeError as error:
        msg = f"the .npy header must have a type that there is, got {descr!r}"
        raise ValueError(msg) from error


def write_npy_header(stream: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Write the header of an array in C order; return where the data begin.

    Parameters
    ----------
    stream : binary file
        At its beginning.
    dtype : numpy.dtype
    shape : tuple of int
    """
    header: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    return int(stream.tell())
