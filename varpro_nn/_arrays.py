"""Arrays from users without masks or imaginary parts."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def plain_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``values`` as an array; ``name`` is for messages.

    `numpy.asarray` drops the mask of a masked array, and a conversion to real numbers drops
    imaginary parts. A masked array without masked values is accepted.

    Raises
    ------
    ValueError
        Masked values, or complex numbers.
    """
    given: Any = values
    if isinstance(given, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in given):
        given = np.ma.array(given)
    if isinstance(given, np.ma.MaskedArray):
        n_masked = np.count_nonzero(np.ma.getmaskarray(given))
        if n_masked:
            msg = (
                f"{name} must have no masked values, got {n_masked} of {given.size} masked; fill "
                f"them in ({name}.filled(...)), or leave out the rows that have them."
            )
            raise ValueError(msg)
        given = np.ma.getdata(given)
    array = np.asarray(given)
    if array.dtype.kind == "c":
        msg = (
            f"{name} must be real, got {array.dtype}; take numpy.real({name}) or numpy.abs({name})."
        )
        raise ValueError(msg)
    return array
