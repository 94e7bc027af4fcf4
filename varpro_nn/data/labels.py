"""Checks and conversion of labels."""

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varpro_nn._arrays import plain_array

_SURROGATES = 0xD800, 0xDFFF
_LONGEST = 1000
"""Characters of a label; each label of an array of text takes as much memory as the longest."""


def label_row(labels: ArrayLike, name: str = "labels") -> NDArray[Any]:
    """Return labels as a 1-D array; ``name`` is for messages.

    A column (n, 1) becomes (n,). One-hot rows (n, k) become numbers from 0 to k - 1. Objects that
    are all text become text. The caller must check for other shapes and types.

    Raises
    ------
    ValueError
        Masked or complex labels; text with characters that do not exist; objects that are text of
        more than 1,000 characters.
    """
    array = _text_of(plain_array(labels, name), name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif _is_one_hot(array):
        array = array.argmax(axis=1)
    check_text(array, name)
    return array


def _text_of(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Make text of objects that are all text."""
    if array.dtype.kind != "O" or not all(isinstance(label, str) for label in array.flat):
        return array
    longest = max(map(len, array.flat), default=0)
    if longest > _LONGEST:
        msg = f"{name} must have at most {_LONGEST} characters each, got one of {longest}."
        raise ValueError(msg)
    return array.astype(str)


def check_text(array: NDArray[Any], name: str) -> None:
    """Check that text can be encoded in UTF-8: no half surrogate pairs, nothing beyond Unicode.

    Raises
    ------
    ValueError
    """
    if array.dtype.kind != "U" or not array.size or not array.dtype.itemsize:
        return
    # Native byte order, so that the view reads code points.
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    codes = native.reshape(-1).view(np.uint32).reshape(array.size, -1)
    first, last = _SURROGATES
    bad = (codes > sys.maxunicode) | ((codes >= first) & (codes <= last))
    if bad.any():
        at = int(np.argmax(bad.any(axis=1)))
        msg = (
            f"{name} must be text, got characters that do not exist in entry {at}: "
            f"{', '.join(f'{code:#x}' for code in codes[at][bad[at]])}."
        )
        raise ValueError(msg)


def _is_one_hot(array: NDArray[Any]) -> bool:
    if array.ndim != 2 or array.shape[1] < 2 or not len(array) or array.dtype.kind not in "biuf":
        return False
    return bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())
