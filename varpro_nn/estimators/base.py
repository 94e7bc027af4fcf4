"""What the estimators share: parameters and rows of pixels as images."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from varpro_nn._arrays import plain_array
from varpro_nn._settings import settings_of, unknown_among
from varpro_nn._typing import FloatArray, ImageArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.images import check_weights
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.errors import DatasetError
from varpro_nn.estimators.rows import (
    Scale,
    flat,
    layout_of_images,
    layout_of_rows,
    warn_if_another_fits,
)
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.contest import AUTO
from varpro_nn.training.recipes import configure, current_names, kind_of_data
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.units.maps import seeing
from varpro_nn.varpro.history import FitReport

_Method = TypeVar("_Method", bound=Callable[..., Any])

AS_RECIPE = "recipe"
"""Value of a setting that is left to the recipe."""
SETTINGS = tuple(
    option
    for option, described in settings_of(TrainConfig).items()
    if len(described.path) > 1 and described.path[0] != "bootstrap"
)
"""Settings that are parameters of an estimator, by their flat names."""
_SMALLEST_FOR_WINDOWS = 8
_SHAPES_WEIGHTS = (
    "kind", "scalarisation", "rank", "window", "contrast", "whitening", "n_components",
)  # fmt: skip
"""Settings that the meaning of the unit weights depends on."""
_OWN: dict[str, Any] = {
    "recipe": None, "image_shape": None, "n_jobs": None, "random_state": None,
    "warm_start": False,
}  # fmt: skip


def with_settings(**more: Any) -> Callable[[type], type]:
    """Give a class an ``__init__`` that stores its parameters, with a signature that names them.

    scikit-learn reads parameters off the signature; the settings come from ``TrainConfig``, so
    that there is one list of them.
    """
    defaults = {**_OWN, **more, **dict.fromkeys(SETTINGS, AS_RECIPE)}
    kinds = inspect.Parameter
    either = kinds.POSITIONAL_OR_KEYWORD
    parameters = [
        kinds(name, either if name == "recipe" else kinds.KEYWORD_ONLY, default=value)
        for name, value in defaults.items()
    ]

    def decorate(cls: type) -> type:
        def __init__(self: Any, recipe: str | None = None, **given: Any) -> None:  # noqa: N807
            given = current_names(given)
            if unknown := unknown_among(given, defaults):
                msg = f"{cls.__name__} has no parameters {unknown}"
                raise TypeError(msg)
            for name, value in {**defaults, "recipe": recipe, **given}.items():
                setattr(self, name, value)

        __init__.__qualname__ = f"{cls.__name__}.__init__"
        own = kinds("self", either)
        __init__.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate


def undone_on_error(method: _Method) -> _Method:
    """Restore the estimator if a method raises."""

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast("_Method", wrapper)


class ImageEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of the estimators: rows of pixels in, units trained by variable projection."""

    # --- rows of pixels as images ----------------------------------------------------------

    def _rows(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """Check rows of pixels, or make rows of images; bytes stay bytes."""
        if not hasattr(X, "shape"):
            X = _array_of(X)
        if is_images := len(X.shape) > 2:
            X = plain_array(X, "X")
            if reset:
                self._layout = layout_of_images(X.shape, self.image_shape)
            X = flat(self._layout, X)
        dtype: Any = np.uint8 if getattr(X, "dtype", None) == np.uint8 else np.float32
        # Training needs at least two images.
        rows = validate_data(self, X, reset=reset, dtype=dtype, ensure_min_samples=1 + reset)
        plain_array(X, "X")  # the mask of a masked array
        if reset and not is_images:
            self._layout = layout_of_rows(rows.shape[1], self.image_shape)
            if self.image_shape is not None:
                warn_if_another_fits(self._layout, rows)
        return cast("NDArray[Any]", rows)

    def _training_images(self, rows: NDArray[Any], there: NDArray[np.bool_]) -> ImageArray:
        """Make images of the rows that are ``there``, and keep what predicting needs to know."""
        some = rows if there.all() else rows[there]
        self._scale = Scale.of(some)
        self._scale.warn_of_extremes(some, np.flatnonzero(there))
        self._range = IntensityRange.of(some)
        self.image_shape_, self.intensity_ = self._layout.image_shape, self._scale.intensity
        return self._scale.apply(self._layout.images(some))

    def _images_of(self, X: Any) -> ImageArray:
        return self._checked_images(self._rows(X, reset=False))

    def _checked_images(self, rows: NDArray[Any]) -> ImageArray:
        """Make images of rows, which must be on the scale of training."""
        self._range.check(rows, "X")
        return self._scale.apply(self._layout.images(rows))

    # --- settings --------------------------------------------------------------------------

    def _seed(self) -> int:
        """Draw the seed of a fit."""
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _given(self) -> dict[str, Any]:
        """Return the settings that are not left to the recipe."""
        values = {name: getattr(self, name) for name in SETTINGS}
        return {name: value for name, value in values.items() if not _is_left(value)}

    def _config(
        self,
        n_rows: int,
        fixed: Mapping[str, Any],
        seed: int | None = None,
        *,
        n_classes: int | None = None,
    ) -> TrainConfig:
        """Make the settings for ``n_rows`` rows; parameters may not differ from ``fixed``."""
        recipe = self.recipe
        if isinstance(recipe, str) and recipe == AUTO:
            msg = (
                f"recipe={AUTO!r} is for VarProClassifier.fit only, which compares classifiers; "
                "name another recipe, or leave it out."
            )
            raise ValueError(msg)
        if recipe is None:
            small = min(self.image_shape_[-2:]) < _SMALLEST_FOR_WINDOWS
            recipe = "bilinear" if small else "default"
        own = self._given()
        overrides = {**fixed, **own}
        wrong = [n for n, v in fixed.items() if overrides[n] != v]
        if wrong:
            name = wrong[0]
            msg = f"{name} must be {fixed[name]!r} here, got {overrides[name]!r}."
            raise ValueError(msg)
        if recipe == "bilinear" and self.recipe is None:
            # As many units as so few numbers can use.
            overrides.setdefault("n_units", max(10, min(2000, n_rows // 2) // 10 * 10))
        if self.warm_start and "scheme" not in own:
            # Others train sub-networks beside columns that were not there the last time.
            overrides = {"n_stages": 1, **overrides, "scheme": "independent"}
        seed = self._seed() if seed is None else seed
        kind, overrides = kind_of_data("", self.image_shape_), {"seed": seed, **overrides}
        # Of a whitening; without one it means nothing (scikit-learn sets it where it is there).
        n_components = None
        if overrides.get("whitening") is None:
            n_components = overrides.pop("n_components", None)
        config = configure(recipe, data=kind, n_images=n_rows, n_classes=n_classes, **overrides)
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

    def _start(self, config: TrainConfig) -> dict[str, Any]:
        """Return the weights of the last fit as ``start``, if ``warm_start`` continues from it.

        With several layers also the ``units``: the weights mean something on the same maps alone.
        """
        W = getattr(self, "W_", None)
        if not self.warm_start or W is None:
            return {}
        h, units = config.units_per_subnetwork, config.units
        before: Any = self.units_ if hasattr(self, "units_") else self.network_.units
        if before.image_shape != self.image_shape_:
            msg = (
                f"warm_start needs images of the same shape as before, {before.image_shape}, "
                f"got {self.image_shape_}."
            )
            raise ValueError(msg)
        for name in _SHAPES_WEIGHTS:
            old, new = getattr(self.config_.units, name), getattr(units, name)
            if old != new:
                option = "units" if name == "kind" else name
                msg = f"warm_start needs the same {option} as before, {old!r}, got {new!r}."
                raise ValueError(msg)
        of_maps = config.first.n_units is not None
        then, now = (
            (each.first, each.middle, each.units if of_maps else None)
            for each in (self.config_, config)
        )
        if then != now:
            msg = (
                "warm_start with several layers needs the same settings of all as before, "
                f"{then}, got {now}; repeat them, or set warm_start=False."
            )
            raise ValueError(msg)
        if len(W) != config.units.n_units:
            msg = (
                f"warm_start needs the same n_units as before, {len(W)}, "
                f"got {config.units.n_units}."
            )
            raise ValueError(msg)
        start = W.reshape(config.subnetworks.n_subnetworks, h, -1).astype(np.float64)
        if not of_maps:
            return {"start": start}
        # The output layer is fitted anew, and may see other cells of the layers below.
        return {"start": start, "units": seeing(before, config.output.cells_below)}

    def _weights(
        self, sample_weight: Any, n_rows: int
    ) -> tuple[FloatArray | None, NDArray[np.bool_]]:
        """Weights of mean 1 of the rows that have any, and which these are.

        Penalties are for rows of weight about 1: weights on any scale mean the same.
        """
        if sample_weight is None:
            return None, np.ones(n_rows, dtype=bool)
        weights = check_array(
            plain_array(sample_weight, "sample_weight"),
            ensure_2d=False, dtype=np.float64, input_name="sample_weight",
        )  # fmt: skip
        check_weights(weights, n_rows)
        there = weights > 0
        return weights[there] / weights[there].mean(), there

    # --- reports -------------------------------------------------------------

    def _set_reports(self, subnetworks: list[Subnetwork]) -> None:
        self.history_: list[FitReport] = [s.report for s in subnetworks if s.report is not None]
        self.n_iter_ = max([1, *(report.n_evaluations for report in self.history_)])


def _is_left(value: Any) -> bool:
    """Whether a setting is left to the recipe; an array, which no setting may be, is not."""
    return isinstance(value, str) and value == AS_RECIPE


def _array_of(X: Any) -> NDArray[Any]:
    try:
        return plain_array(X, "X")
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        msg = "X must be rows of one length, or images of one shape, got several."
        raise ValueError(msg) from error
