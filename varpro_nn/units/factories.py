"""Make units from a user's choice or from the header of a model file, all arguments checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn.units import registry
from varpro_nn.units.activations import ACTIVATIONS
from varpro_nn.units.contract import Units
from varpro_nn.units.maps import MOST_LAYERS, Maps, UnitsOnMaps, shape_of_maps, units_on_maps
from varpro_nn.units.patches import DRAWS, PatchUnits
from varpro_nn.units.scalarisation import KINDS
from varpro_nn.units.whole_image import WholeImageUnits


def whole_image_units(
    kind: str,
    image_shape: Sequence[int],
    n_units: int,
    *,
    rank: int = 1,
    activation: str = "logistic",
    gain: float = 1.0,
    threshold: float = 0.0,
) -> WholeImageUnits:
    """Make a layer of whole-image units, its arguments checked.

    Parameters
    ----------
    kind : {"quadratic", "bilinear", "tensor", "dense"}
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns).
    n_units : int
    rank : int
        Terms of the sum; 1 for dense units.
    activation : {"logistic", "tanh", "rectifier", "two-sided"}
    gain : float
        Standard deviation of the pre-activations at the start.
    threshold : float
        Of the two-sided activation, >= 0.

    Returns
    -------
    WholeImageUnits

    Raises
    ------
    ValueError
        An unknown name, a number below 1, or quadratic units for images that are not square.
    """
    shape = _shape(image_shape)
    n_units, rank = _whole_numbers(n_units=n_units, rank=rank)
    _check_scalarisation(kind, shape, rank)
    _check_activation(activation, gain, threshold)
    if kind == "quadratic" and shape[-1] != shape[-2]:
        msg = f"quadratic units need square images, got image_shape={shape}; use bilinear units."
        raise ValueError(msg)
    return WholeImageUnits(kind, shape, n_units, rank, activation, float(gain), float(threshold))


def patch_units(
    kind: str,
    image_shape: Sequence[int],
    n_units: int,
    *,
    window: int,
    stride: int = 1,
    grid: int = 4,
    rank: int = 1,
    activation: str = "logistic",
    gain: float = 1.0,
    threshold: float = 0.0,
    contrast: float | None = None,
    draw: str = "gaussian",
) -> PatchUnits:
    """Make a layer of units on windows, its arguments checked.

    Parameters
    ----------
    kind : {"dense", "bilinear", "quadratic", "tensor"}
        Scalarisation of a window.
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns).
    n_units : int
    window, stride : int
        Side of the windows in pixels, and their distance.
    grid : int
        Cells along each side; each is a column of ``Phi``.
    rank : int
        Terms of the sum; 1 for dense units.
    activation : {"logistic", "tanh", "rectifier", "two-sided"}
    gain : float
        Standard deviation of the pre-activations at the start.
    threshold : float
        Of the two-sided activation, >= 0.
    contrast : float, optional
        Take mean and contrast out of each window; this is added to its variance, > 0.
    draw : {"gaussian", "windows"}
        Filters to start from: random numbers, or (dense units) windows of training images.

    Returns
    -------
    PatchUnits
        Without whitening; see :func:`varpro_nn.units.learn_whitening`.

    Raises
    ------
    ValueError
        An unknown name, a number out of range, a window larger than the image, or more cells
        than places.
    """
    shape = _shape(image_shape)
    n_units, rank, window, stride, grid = _whole_numbers(
        n_units=n_units, rank=rank, window=window, stride=stride, grid=grid
    )
    _check_scalarisation(kind, shape, rank)
    _check_activation(activation, gain, threshold)
    if len(shape) not in (2, 3):
        msg = f"image_shape must be (rows, columns) or (channels, rows, columns), got {shape}."
        raise ValueError(msg)
    if window > min(shape[-2:]):
        msg = f"window must be at most the sides of the image, {shape[-2:]}, got {window}."
        raise ValueError(msg)
    if contrast is not None and not 0 < contrast < inf:
        msg = f"contrast must be positive and finite, got {contrast}."
        raise ValueError(msg)
    if draw not in DRAWS or (draw == "windows" and kind != "dense"):
        msg = f"draw must be one of {', '.join(DRAWS)}, windows for dense units, got {draw!r}."
        raise ValueError(msg)
    units = PatchUnits(
        kind, shape, n_units, window, stride, grid, rank, activation, float(gain),
        float(threshold), None if contrast is None else float(contrast), draw,
    )  # fmt: skip
    if grid > min(units.windows.places):
        msg = f"grid must be at most the places of a window, {units.windows.places}, got {grid}."
        raise ValueError(msg)
    return units


def spec_of(units: Any) -> tuple[dict[str, Any], Mapping[str, NDArray[Any]]]:
    """Describe units for a file: plain values, and the arrays that were learnt before the weights.

    Raises
    ------
    ValueError
        Units of a class of your own that is not registered.
    TypeError
        A field of such a class is neither a plain value nor an array.
    """
    # A subclass may compute something else.
    if type(units) is PatchUnits:
        return units.spec(), units.arrays
    if type(units) is WholeImageUnits:
        return units.spec(), {}
    if type(units) is UnitsOnMaps:
        return units.spec(), units.arrays
    return registry.describe(units)


def units_from_spec(spec: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> Units:
    """Make the units that their ``spec`` and ``arrays`` describe, checked as a user's choice.

    Raises
    ------
    ValueError
        The values do not describe units, or describe units of a class that is not registered.
    """
    if not isinstance(spec, Mapping):
        msg = f"spec must hold the fields of the units, got {spec!r:.200}."
        raise ValueError(msg)
    if "class" in spec:
        return registry.remake(spec, arrays or {})
    if spec.get("place") == "maps":
        return _units_on_maps(spec, arrays or {})
    choices = dict(spec)
    try:
        place = choices.pop("place", None)
        if place not in (None, "windows"):
            raise KeyError(place)
        kind, shape, n_units = (choices.pop(name) for name in ("kind", "image_shape", "n_units"))
        if place != "windows" and not arrays:
            return whole_image_units(kind, shape, n_units, **choices)
        units = patch_units(kind, shape, n_units, **choices)
        if set(arrays or ()) - {"centre", "whitening"}:
            raise KeyError(arrays)
    except (KeyError, TypeError, OverflowError) as error:
        msg = f"spec must hold the fields of the units, got {dict(spec)}."
        raise ValueError(msg) from error
    if not arrays:
        return units
    d = units.windows.n_pixels
    centre, whitening = arrays.get("centre"), arrays.get("whitening")
    if (
        centre is None
        or whitening is None
        or (centre.shape, centre.dtype, whitening.dtype) != ((d,), np.float64, np.float64)
        or not (whitening.ndim == 2 and whitening.shape[1] == d and 1 <= len(whitening) <= d)
        or not (len(whitening) == d or units.kind == "dense")
        or not (np.isfinite(centre).all() and np.isfinite(whitening).all())
    ):
        msg = f"centre must be ({d},) and whitening (at most {d}, {d}), finite and double."
        raise ValueError(msg)
    return replace(units, centre=centre, whitening=whitening)


def _units_on_maps(spec: Mapping[str, Any], arrays: Mapping[str, Any]) -> UnitsOnMaps:
    """Make units on maps of what their ``spec`` and ``arrays`` say, as they come from a file."""
    others = {n.removeprefix("below."): a for n, a in arrays.items() if n.startswith("below.")}
    if any(name.count("below.") > MOST_LAYERS for name in arrays):
        msg = f"spec must have at most {MOST_LAYERS} layers."
        raise ValueError(msg)
    try:
        below, window = spec["below"], index(spec["below"]["window"])
        units = units_from_spec(spec["units"])
        lower = units_from_spec(below["units"], others)
        W, centre, whitening = (arrays[name] for name in ("W", "centre", "whitening"))
        cells_below = index(spec.get("cells_below", 0))
        fields = {"place", "n_units", "units", "below"}
        if set(spec) - {"cells_below"} != fields or len(arrays) != 3 + len(others):
            raise KeyError(spec)
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = f"spec must hold the fields of units on maps, got {dict(spec)!r:.200}."
        raise ValueError(msg) from error
    if not isinstance(units, PatchUnits) or not isinstance(lower, PatchUnits | UnitsOnMaps):
        got = f"{type(units).__name__} and {type(lower).__name__}"
        msg = f"units on maps need patch units above and below, got {got}."
        raise ValueError(msg)
    fits = W.ndim == 2 and len(W) and W.shape[1] == lower.n_weights and 1 <= window <= lower.grid
    n_pixels = shape_of_maps(lower, len(W))[0] * window**2 if fits else 0
    if (
        not fits
        or (centre.shape, whitening.shape) != ((n_pixels,), (len(whitening), n_pixels))
        or (W.dtype, centre.dtype, whitening.dtype) != (np.float32, np.float64, np.float64)
        or not all(np.isfinite(array).all() for array in (W, centre, whitening))
    ):
        msg = (
            f"W must be (h, {lower.n_weights}), float32, and centre and whitening of windows of "
            f"{window} x {window} pixels of its maps, float64, all finite, got {W.shape}, "
            f"{centre.shape} and {whitening.shape}."
        )
        raise ValueError(msg)
    below = Maps(lower, W, window, centre, whitening)
    made = units_on_maps(units, below, cells_below=cells_below)
    return replace(made, n_units=_whole_numbers(n_units=spec["n_units"])[0])


def _shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(index(length) for length in image_shape)
    except TypeError as error:
        msg = f"image_shape must be whole numbers, got {image_shape!r}."
        raise ValueError(msg) from error


def _whole_numbers(**values: int) -> list[int]:
    for name, value in values.items():
        try:
            number = index(value)
        except TypeError as error:
            msg = f"{name} must be a whole number, got {value!r}."
            raise ValueError(msg) from error
        if number < 1:
            msg = f"{name} must be positive, got {value}."
            raise ValueError(msg)
    return [index(value) for value in values.values()]


def _check_scalarisation(kind: str, shape: tuple[int, ...], rank: int) -> None:
    if kind not in KINDS:
        msg = f"kind must be one of {', '.join(KINDS)}, got {kind!r}."
        raise ValueError(msg)
    if not shape or min(shape) < 1 or (kind in ("quadratic", "bilinear") and len(shape) < 2):
        msg = f"image_shape must have positive lengths, rows and columns at least, got {shape}."
        raise ValueError(msg)
    if kind == "dense" and rank != 1:
        msg = f"dense units have rank 1, got rank={rank}."
        raise ValueError(msg)


def _check_activation(activation: str, gain: float, threshold: float) -> None:
    if activation == "softplus":
        msg = "activation='softplus' was removed: use rectifier or logistic."
        raise ValueError(msg)
    if activation not in ACTIVATIONS:
        msg = f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}."
        raise ValueError(msg)
    if not 0 < gain < inf:
        msg = f"gain must be positive and finite, got {gain}."
        raise ValueError(msg)
    if not (isfinite(threshold) and threshold >= 0):
        msg = f"threshold must be finite and not negative, got {threshold}."
        raise ValueError(msg)
