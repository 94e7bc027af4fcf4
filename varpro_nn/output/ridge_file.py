"""The file of a ridge layer: units, and the sums or rows of their columns."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn._arrays import plain_array
from varpro_nn._io import archive
from varpro_nn._typing import RealArray
from varpro_nn.errors import ModelFileError
from varpro_nn.linalg import GramAccumulator, RowStore
from varpro_nn.units import Units, spec_of, units_from_spec
from varpro_nn.units.maps import n_columns

KIND = "glue"
"""What the header calls the file."""
Kept: TypeAlias = GramAccumulator | RowStore
"""What a ridge layer follows from."""
_FORMS: dict[str, type[GramAccumulator | RowStore]] = {"rows": RowStore, "sums": GramAccumulator}


def form_of(kept: Kept) -> str:
    """Say whether rows are kept, or sums."""
    return next(form for form, kind in _FORMS.items() if isinstance(kept, kind))


def write_ridge_layer(path: Path, units: Units, W: RealArray, kept: Kept) -> None:
    """Write an npz file that :func:`read_ridge_layer` checks, atomically.

    Raises
    ------
    ValueError, TypeError
        Units of a class of your own that is not registered, or has fields that no file can hold.
    """
    spec, arrays = spec_of(units)
    form = form_of(kept)
    header = {"kind": KIND, "units": spec, "form": form}
    learnt = {f"units.{name}": array for name, array in arrays.items()}
    own = {f"{form}.{name}": array for name, array in kept.arrays().items()}
    archive.write(path, header, {"W": W, **learnt, **own})


def read_ridge_layer(path: Path) -> tuple[Units, RealArray, Kept]:
    """Read what :func:`write_ridge_layer` wrote.

    Raises
    ------
    ModelFileError
        The file is damaged, holds something else, or its arrays do not go together.
    FileNotFoundError
    """
    header, arrays = archive.read(path)
    if header.get("kind") != KIND:
        msg = f"{path}: expected a ridge layer ({KIND}), the file holds a {header.get('kind')}."
        raise ModelFileError(msg)
    groups: dict[str, dict[str, Any]] = {"units": {}, **{form: {} for form in _FORMS}}
    for name, array in arrays.items():
        group, _, own = name.partition(".")
        groups.get(group, {})[own] = array
    try:
        units = units_from_spec(header["units"], groups["units"])
        W = unit_weights(arrays["W"], units.n_weights)
        form = header["form"]
        kept = _FORMS[form].of_arrays(groups[form], n_columns(units, len(W)), W.dtype)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{path}: the arrays do not describe a ridge layer: {error}."
        raise ModelFileError(msg) from error
    return units, W, kept


def unit_weights(W: ArrayLike, n_weights: int) -> RealArray:
    """Check weights of units, (h, n_weights), and copy them."""
    array = plain_array(W, "W").copy()
    fitting = array.ndim == 2 and array.shape[1] == n_weights and len(array) > 0
    if not fitting or array.dtype not in (np.float32, np.float64):
        msg = (
            f"W must have shape (h, {n_weights}) and a type of 32 or 64 bits, got {array.shape} of "
            f"{array.dtype}."
        )
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = "W must be finite, got NaN or infinity."
        raise ValueError(msg)
    return array
