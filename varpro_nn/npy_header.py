"""The header of a ``.npy`` array, read with suspicion."""

import tokenize
import warnings
from typing import Any

import numpy as np
from numpy.lib import format as npy

_MOST_BYTES = 4096
"""A header of a plain array has about a hundred bytes."""
_DAMAGE = (
    SyntaxError, tokenize.TokenError, RecursionError, TypeError, OverflowError, EOFError, Warning,
    MemoryError,
)  # fmt: skip
"""What numpy raises on damaged headers, beside ValueError."""


def read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, whether the order is Fortran's, and type; the stream then stands at the data.

    Raises
    ------
    ValueError
        Another version than 1.0 or 2.0, a negative dimension, or whatever is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns of headers that it had to guess at
            version = npy.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                msg = f"must have .npy version 1.0 or 2.0, got {version}"
                raise ValueError(msg)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = reader(stream, max_header_size=_MOST_BYTES)
    except _DAMAGE as error:
        msg = f"the .npy header is damaged: {error or type(error).__name__}"
        raise ValueError(msg) from error
    if min(shape, default=0) < 0:
        msg = f"the .npy header has a negative dimension: {shape}"
        raise ValueError(msg)
    return shape, fortran, dtype
