"""What the estimators share: parameters and rows of pixels as images."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from varpro_nn._settings import settings_of, unknown_among
from varpro_nn._typing import FloatArray, ImageArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.images import check_weights
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.errors import DatasetError
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.recipes import configure, current_names, kind_of_data
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.varpro.history import FitReport

AS_RECIPE = "recipe"
"""Value of a setting that is left to the recipe."""
SETTINGS = tuple(
    option
    for option, described in settings_of(TrainConfig).items()
    if len(described.path) > 1 and described.path[0] != "bootstrap"
)
"""Settings that are parameters of an estimator, by their flat names."""
_SMALLEST_FOR_WINDOWS = 8
_OWN: dict[str, Any] = {
    "recipe": "auto", "image_shape": None, "n_jobs": None, "random_state": None,
    "warm_start": False,
}  # fmt: skip


def with_settings(**more: Any) -> Callable[[type], type]:
    """Give a class an ``__init__`` that stores its parameters, with a signature that names them.

    scikit-learn reads parameters off the signature; the settings come from ``TrainConfig``, so
    that there is one list of them.
    """
    defaults = {**_OWN, **more, **dict.fromkeys(SETTINGS, AS_RECIPE)}
    kinds = inspect.Parameter
    parameters = [
        kinds(name, kinds.KEYWORD_ONLY, default=value) for name, value in defaults.items()
    ]
    own = kinds("self", kinds.POSITIONAL_OR_KEYWORD)

    def decorate(cls: type) -> type:
        def __init__(self: Any, **given: Any) -> None:  # noqa: N807
            given = current_names(given)
            if unknown := unknown_among(given, defaults):
                msg = f"{cls.__name__} has no parameters {unknown}"
                raise TypeError(msg)
            for name, value in {**defaults, **given}.items():
                setattr(self, name, value)

        __init__.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate


class ImageEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of the estimators: rows of pixels in, units trained by variable projection."""

    # --- rows of pixels as images ----------------------------------------------------------

    def _rows(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """Check rows of pixels; bytes stay bytes."""
        array = np.asarray(X) if hasattr(X, "dtype") else None
        dtype: Any = np.uint8 if array is not None and array.dtype == np.uint8 else np.float32
        # Training needs at least two images.
        return validate_data(self, X, reset=reset, dtype=dtype, ensure_min_samples=1 + reset)

    def _set_images(self, rows: NDArray[Any]) -> None:
        """Decide on the shape of images and on the intensity that counts as 1."""
        d = rows.shape[1]
        if self.image_shape is None:
            side = isqrt(d - 1) + 1
            third = isqrt(d // 3)
            if side**2 != d and 3 * third**2 == d and third > 2:
                msg = f"rows of {d} numbers are filled up to {side} x {side} images; for colour "
                msg += f"images give image_shape=(3, {third}, {third})."
                warnings.warn(msg, UserWarning, stacklevel=3)
            self.image_shape_: tuple[int, ...] = (side, side)
        else:
            try:
                self.image_shape_ = tuple(int(length) for length in self.image_shape)
            except TypeError:
                self.image_shape_ = ()
            if len(self.image_shape_) not in (2, 3) or prod(self.image_shape_) != d:
                msg = (
                    "image_shape must be (rows, columns) or (channels, rows, columns) of "
                    f"{d} pixels in all, got {self.image_shape}."
                )
                raise ValueError(msg)
        largest = float(np.abs(rows).max())
        self.intensity_ = largest if largest > 0 else 1.0
        self._range = IntensityRange.of(rows)

    def _images(self, rows: NDArray[Any]) -> ImageArray:
        """Rows as images; those that are too short for a square are filled up with zeros."""
        n, d = rows.shape
        missing = prod(self.image_shape_) - d
        if missing:
            rows = np.concatenate([rows, np.zeros((n, missing), dtype=rows.dtype)], axis=1)
        images = rows.reshape(n, *self.image_shape_)
        if rows.dtype == np.uint8 and self.intensity_ == 255:
            return images
        return images.astype(np.float32) / np.float32(self.intensity_)

    def _images_of(self, X: Any) -> ImageArray:
        rows = self._rows(X, reset=False)
        self._range.check(rows, "X")
        return self._images(rows)

    # --- settings --------------------------------------------------------------------------

    def _config(self, n_rows: int, fixed: Mapping[str, Any]) -> TrainConfig:
        """Make the settings for ``n_rows`` rows; parameters may not differ from ``fixed``."""
        recipe = self.recipe
        if recipe == "auto":
            small = min(self.image_shape_[-2:]) < _SMALLEST_FOR_WINDOWS
            recipe = "bilinear" if small else "default"
        given = {name: getattr(self, name) for name in SETTINGS}
        overrides = {**fixed, **{n: v for n, v in given.items() if v != AS_RECIPE}}
        wrong = [n for n, v in fixed.items() if overrides[n] != v]
        if wrong:
            name = wrong[0]
            msg = f"{name} must be {fixed[name]!r} here, got {overrides[name]!r}."
            raise ValueError(msg)
        if recipe == "bilinear" and self.recipe == "auto":
            # As many units as so few numbers can use.
            overrides.setdefault("n_units", max(10, min(2000, n_rows // 2) // 10 * 10))
        if self.warm_start and given["scheme"] == AS_RECIPE:
            # Others train sub-networks beside columns that were not there the last time.
            overrides = {"n_stages": 1, **overrides, "scheme": "independent"}
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        kind, overrides = kind_of_data("", self.image_shape_), {"seed": seed, **overrides}
        # Of a whitening; without one it means nothing (scikit-learn sets it where it is there).
        n_components = overrides.pop("n_components", None)
        config = configure(recipe, data=kind, **overrides)
        if n_components is not None and config.units.whitening is not None:
            config = config.with_options(n_components=n_components)
        return config

    @property
    def _n_jobs(self) -> int:
        return 1 if self.n_jobs is None else self.n_jobs

    @contextmanager
    def _compute(self) -> Iterator[Compute]:
        """Make the workers of ``n_jobs``; a DatasetError becomes a ValueError."""
        with Compute(self._n_jobs) as compute:
            try:
                yield compute
            except DatasetError as error:
                raise ValueError(str(error)) from error

    def _start(self, config: TrainConfig) -> FloatArray | None:
        """Return the unit weights of the last fit, if ``warm_start`` continues from it."""
        W = getattr(self, "W_", None)
        if not self.warm_start or W is None:
            return None
        h = config.units_per_subnetwork
        if len(W) != config.units.n_units:
            msg = (
                f"warm_start needs the same n_units as before, {len(W)}, "
                f"got {config.units.n_units}."
            )
            raise ValueError(msg)
        return W.reshape(config.subnetworks.n_subnetworks, h, -1).astype(np.float64)

    def _weights(
        self, sample_weight: Any, rows: NDArray[Any]
    ) -> tuple[FloatArray | None, NDArray[np.bool_]]:
        """Weights of mean 1 of the rows that have any, and which these are.

        Penalties are for rows of weight about 1: weights on any scale mean the same.
        """
        if sample_weight is None:
            return None, np.ones(len(rows), dtype=bool)
        weights = check_array(
            sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
        )
        check_weights(weights, len(rows))
        there = weights > 0
        return weights[there] / weights[there].mean(), there

    # --- reports -------------------------------------------------------------

    def _set_reports(self, subnetworks: list[Subnetwork]) -> None:
        self.history_: list[FitReport] = [s.report for s in subnetworks if s.report is not None]
        self.n_iter_ = max([1, *(report.n_evaluations for report in self.history_)])
