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


def row_weights(sample_weight: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return the weights of ``n`` rows, (n,), in double precision.

    Raises
    ------
    ValueError
        Another shape, values that are negative or not finite, or zeros alone.
    """
    weights = plain_array(sample_weight, "sample_weight").astype(np.float64, copy=False)
    if weights.shape != (n,):
        msg = f"sample_weight must be ({n},), one number for each row, got shape {weights.shape}."
        raise ValueError(msg)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        msg = (
            f"sample_weight must be finite and not negative, got {weights[bad[0]]} in row {bad[0]}."
        )
        raise ValueError(msg)
    if not weights.any():
        msg = "sample_weight must be positive for one row at least, got zeros."
        raise ValueError(msg)
    return weights
