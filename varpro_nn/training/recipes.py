"""Named settings: recipes, and what they are for each kind of data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any

from varpro_nn._settings import check_known, settings_of
from varpro_nn._warn import warn_user
from varpro_nn.data import Dataset
from varpro_nn.data.augmentation import Augmentation
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.training.config import (
    REMOVED,
    RENAMED,
    FirstLayerSettings,
    MiddleLayerSettings,
    TrainConfig,
)
from varpro_nn.units import ACTIVATIONS
from varpro_nn.units.activations import sides

_SETTINGS = settings_of(TrainConfig)

# Twelve units on windows of 7 x 7 pixels a sub-network, trained at every second place, two
# sub-networks at a time.
_DEFAULT = TrainConfig().with_options(
    recipe="default",
    units="patch",
    training_stride=2,
    gain=2.0,
    n_units=72,
    n_subnetworks=6,
    scheme="stages",
    n_stages=3,
    images_per_subnetwork=2500,
    max_nfev=5,
    shift=1,
    rotation=8.0,
    scale=0.08,
    shear=0.08,
    elastic=0.4,
    n_copies=1,
    output_layer="hinge",
    standardise=True,
)
_SHIFTS_ALONE: dict[str, Any] = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0}
# One sub-network, trained longer, on more images, and with cross-entropy: every weight counts.
_TINY = _DEFAULT.with_options(
    recipe="tiny",
    n_units=16,
    n_subnetworks=1,
    scheme="independent",
    n_stages=1,
    images_per_subnetwork=10_000,
    n_rounds=3,
    max_nfev=5,
    loss="cross-entropy",
    ridge=0.2,
    weight_decay=0.05,
    **_SHIFTS_ALONE,
)
_ACCURATE = _DEFAULT.with_options(
    recipe="accurate",
    n_units=192,
    n_subnetworks=16,
    scheme="independent",
    n_stages=1,
    images_per_subnetwork=4000,
    max_nfev=6,
    n_copies=4,
)

# Natural colour images: windows are whitened, and filters start from windows.
_COLOUR: dict[str, Any] = {
    "window": 5, "grid": 3, "activation": "two-sided", "threshold": 0.5, "contrast": 0.01,
    "whitening": 0.1, "n_components": 30, "draw": "windows", "gain": 1.0, **_SHIFTS_ALONE,
    "shift": 2, "output_layer": "softmax",
}  # fmt: skip
_OF_COLOUR: dict[str, dict[str, Any]] = {
    "default": {
        **_COLOUR, "n_units": 192, "n_subnetworks": 12, "scheme": "independent",
        "n_stages": 1, "images_per_subnetwork": 5000, "n_copies": 1,
    },
    # At most 5,000 parameters for 32 x 32 images, of which the whitening takes 1,575.
    "tiny": {
        **_COLOUR, "n_units": 33, "n_subnetworks": 1, "grid": 2, "n_components": 20,
        "loss": "squares", "ridge": 1.0, "weight_decay": 0.1,
    },
    "accurate": {
        **_COLOUR, "n_units": 768, "n_subnetworks": 48, "images_per_subnetwork": 5000,
        "n_copies": 2, "n_components": 45,
    },
}  # fmt: skip
# Mirror images of these data show objects of the same class.
_MIRRORED: dict[str, Any] = {"flip": True, "views": "flip"}
_CLOTHES: dict[str, Any] = {**_SHIFTS_ALONE, "flip": True}
_SMALL_IMAGES: dict[str, Any] = {
    "window": 3, "grid": 3, "training_stride": None, "images_per_subnetwork": 1000,
    **_SHIFTS_ALONE,
}  # fmt: skip

# Units on the maps of a first layer; the windows of these are projected on 100 directions at most.
_ON_MAPS: dict[str, Any] = {
    "units": "patch", "scalarisation": "dense", "rank": 1, "window": 3, "stride": 1, "grid": 3,
    "training_stride": None, "contrast": None, "whitening": 0.1, "activation": "two-sided",
    "threshold": 0.5, "draw": "windows", "gain": 1.0, "scheme": "independent", "n_stages": 1,
    "training_grid": 2,
}  # fmt: skip
# All units of a layer at once, on all images.
_ON_BATCHES: dict[str, Any] = {
    "solver": "kfac", "loss": "squares", "n_subnetworks": 1, "images_per_subnetwork": 10**7,
    "max_nfev": 3, "n_rounds": 3, "weight_decay": 2.0,
}  # fmt: skip
_UNITS_OF_SUBNETWORK = 16
_IN_SUBNETWORKS: dict[str, Any] = {"images_per_subnetwork": 5000}
# The last layer on the small maps of a middle one: fewer cells, and more directions.
_ON_MIDDLE_MAPS: dict[str, Any] = {"grid": 2, "training_grid": 1}
_SMALL_MIDDLE: dict[str, Any] = {"middle_grid": 4}
_DIRECTIONS_OF_MIDDLE = 400
_ON_SMALL_MAPS: dict[str, Any] = {
    "first_window": 3, "first_grid": 6, "window": 2, "grid": 2, "training_grid": None,
}  # fmt: skip
_DIRECTIONS = 100

RECIPES: dict[str, TrainConfig] = {
    # Chosen on training images, the last 10,000 held out: experiments/README.md
    "default": _DEFAULT,
    "tiny": _TINY,
    "accurate": _ACCURATE,
    # Whole-image units u'Xv + b: few weights, no windows.
    "bilinear": TrainConfig(recipe="bilinear"),
    # Table 3 of the paper: 104 sub-networks of 50 units w'Xw, 2,000 images each, one pass of
    # about fifteen iterations, 50,000 training images.
    "paper": TrainConfig().with_options(
        recipe="paper",
        units="quadratic",
        n_units=5200,
        n_subnetworks=104,
        images_per_subnetwork=2000,
        n_train=50_000,
        max_nfev=15,
    ),
}
"""The recipes by name, for images like those of MNIST."""

STACKS: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10": {
        "default": {
            "first_units": 40, "middle_units": 80, "n_units": 160, "n_components": 200,
            "cells_below": 2,
        },
        "accurate": {
            "first_units": 96, "middle_units": 192, "n_units": 384, "n_components": 600,
            "n_copies": 2, "cells_below": 2,
        },
    },
}  # fmt: skip
"""Recipes of several layers: values that differ from the defaults for units on maps.

With ``first_units=None``, or with a setting that units on maps do not support, the recipe is that
of one layer; also with ``n_subnetworks`` above 1 or a window larger than the maps of the middle
layer, unless ``first_units`` is given.
"""
_REQUIRED_ON_MAPS: dict[str, Any] = {
    "contrast": None, "stride": 1, "training_stride": None, "scalarisation": "dense",
    "loss": "squares", "form": "auto", "jacobian": "kaufman", "n_stages": 1,
}  # fmt: skip
_NEEDED_ON_MAPS = ("whitening", "n_components")
"""Settings that may not be None with units on maps."""
MOST_FOR_CROSS_ENTROPY = 20
"""With more classes, units are trained with squares unless the loss is given.

Cross-entropy takes time with the third power of the classes, and memory with the second.
"""
_WITH_SQUARES: dict[str, Any] = {"loss": "squares", "ridge": 1.0, "weight_decay": 0.1}
CROWDED = 1.4
"""With more than this multiple of the recipe's fixed columns per image, there are no stages.

With twice the units of ``default`` on MNIST, stages take twice the CPU time of independent
sub-networks and are no better: the table ``stages`` of the ledger.
"""

_OF_PATCHES = ("default", "tiny", "accurate")
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "fashion-mnist": {
        "tiny": _CLOTHES,
        "default": _CLOTHES,
        "accurate": {
            **_CLOTHES, "n_units": 384, "n_subnetworks": 32, "output_layer": "softmax",
            "views": "flip",
        },
    },
    "cifar10": {name: {**settings, **_MIRRORED} for name, settings in _OF_COLOUR.items()},
    "colour": _OF_COLOUR,
    "digits": {name: {**_SMALL_IMAGES} for name in _OF_PATCHES},
}  # fmt: skip
"""What is different in a recipe for another kind of data."""

NAMED = ("mnist", "fashion-mnist", "cifar10", "digits")
"""The data sets with settings of their own name."""
DATA = (*NAMED, "colour")
"""The kinds of data that recipes have settings for. ``"colour"`` is ``"cifar10"`` without mirror
images, which do harm where left and right matter."""


def kind_of_data(name: str, image_shape: Sequence[int]) -> str:
    """Which kind of data a data set is, by its name or else by the shape of its images."""
    if name in NAMED:
        return name
    if min(image_shape[-2:]) < 16:
        return "digits"
    return "colour" if len(image_shape) == 3 and image_shape[0] > 1 else "mnist"


def configure(
    recipe: str = "default",
    *,
    data: str | Dataset = "mnist",
    n_images: int | None = None,
    n_classes: int | None = None,
    **overrides: Any,
) -> TrainConfig:
    """Take the settings of a recipe of :data:`RECIPES` and override some.

    The public function is :func:`varpro_nn.training.choice.configure`, which describes all.
    """
    if not isinstance(recipe, str) or recipe not in RECIPES:
        msg = f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}."
        raise ValueError(msg)
    overrides = current_names(overrides)
    for name, count in (("n_images", n_images), ("n_classes", n_classes)):
        if count is not None and not (isinstance(count, Integral) and count >= 1):
            msg = f"{name} must be a positive integer or None, got {count!r}."
            raise ValueError(msg)
    if isinstance(data, Dataset):
        n_images, n_classes = len(data.train), len(data.classes)
        if isinstance(data.train.images, ImagesOnDisk):
            overrides.setdefault("n_copies", 0)  # copies would have to be in memory
        data = kind_of_data(data.name, data.train.images.shape[1:])
    if data not in DATA:
        msg = f"data must be one of {', '.join(DATA)}, got {data!r}."
        raise ValueError(msg)
    check_known(overrides, _SETTINGS)
    recipe = _recipe_for(recipe, overrides)
    base = {**RECIPES[recipe].options(), **VARIANTS.get(data, {}).get(recipe, {})}
    base |= _of_layers(data, _stack(data, recipe, overrides), overrides)
    many_classes = n_classes is not None and n_classes > MOST_FOR_CROSS_ENTROPY
    if base["loss"] == "cross-entropy" and many_classes and "loss" not in overrides:
        base |= _WITH_SQUARES
    if overrides.get("solver", base["solver"]) == "kfac":  # no stages: it holds no columns fixed
        base |= {"scheme": "independent", "n_stages": 1}
    settings = {**base, **overrides}
    n_units = overrides.get("n_units")
    together = base["solver"] == "kfac"  # all units of a layer
    given = together or "n_subnetworks" in overrides
    if not given and isinstance(n_units, Integral) and int(n_units) >= 1:
        size = base["n_units"] // base["n_subnetworks"]
        settings["n_subnetworks"] = _n_subnetworks(int(n_units), size)
    if "n_stages" not in overrides:
        n, n_stages = settings["n_subnetworks"], base["n_stages"]
        if settings["scheme"] != "stages":
            settings["n_stages"] = 1
        elif isinstance(n, Integral) and 1 <= int(n) < n_stages:
            settings["n_stages"] = n
    if "n_copies" not in overrides and not any(settings[f.name] for f in fields(Augmentation)):
        settings["n_copies"] = 0
    config = TrainConfig().with_options(**settings)
    if {"scheme", "n_stages"} & set(overrides):
        return config
    as_chosen = TrainConfig().with_options(**base)
    is_crowded = _fixed_columns(config, n_images) > CROWDED * _fixed_columns(as_chosen, None)
    if is_crowded or config.subnetworks.loss != as_chosen.subnetworks.loss:
        config = config.with_options(scheme="independent", n_stages=1)
    return config


def _stack(data: str, recipe: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Take the settings of a recipe of several layers, unless the overrides are of one layer."""
    stack = STACKS.get(data, {}).get(recipe, {})
    fits = all(overrides.get(name, value) == value for name, value in _REQUIRED_ON_MAPS.items())
    fits &= all(overrides.get(name, ...) is not None for name in _NEEDED_ON_MAPS)
    has_first = overrides.get("first_units", ...) is not None
    if "first_units" not in overrides:
        # Sub-networks, and windows that are larger than the maps, are of a layer on images.
        window, most = overrides.get("window", 1), MiddleLayerSettings().grid
        in_parts = overrides.get("n_subnetworks", 1) != 1 and "solver" not in overrides
        fits &= not in_parts and not (isinstance(window, Integral) and int(window) > most)
    return stack if fits and has_first and overrides.get("scheme") != "stages" else {}


def _of_layers(data: str, stack: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Choose settings for units on maps, if there is a first layer; a recipe's are for images.

    ``stack`` has those of a recipe of several layers.
    """
    n_units = overrides.get("first_units", stack.get("first_units"))
    if n_units is None:
        return {}
    if overrides.get("units", "patch") != "patch":
        msg = f"first_units needs units='patch', got {overrides['units']!r}."
        raise ValueError(msg)
    on_batches = overrides.get("solver", "kfac") == "kfac"
    settings = {
        **_ON_MAPS, **(_ON_SMALL_MAPS if data == "digits" else {}),
        **(_ON_BATCHES if on_batches else _IN_SUBNETWORKS), "first_units": n_units,
    }  # fmt: skip
    if stack and not on_batches:
        settings["n_subnetworks"] = stack["n_units"] // _UNITS_OF_SUBNETWORK
    chosen = {**settings, **stack, **overrides}
    activation = chosen.get("first_activation", FirstLayerSettings().activation)
    n_components = _directions(_DIRECTIONS, activation, n_units, chosen["window"])
    middle = chosen.get("middle_units")
    if middle is None:
        # These values apply only with a middle layer.
        with_middle = ("middle_units", "n_components") if "middle_units" in stack else ()
        without = {name: value for name, value in stack.items() if name not in with_middle}
        return {**settings, "n_components": n_components, **without}
    most = stack.get("n_components", _DIRECTIONS_OF_MIDDLE)
    of_middle = _directions(most, chosen["activation"], middle, chosen["window"])
    return {
        **settings, **_ON_MIDDLE_MAPS, **(_SMALL_MIDDLE if data == "digits" else {}), **stack,
        "middle_units": middle, "middle_components": n_components, "n_components": of_middle,
    }  # fmt: skip


def _directions(most: int, activation: Any, n_units: Any, window: Any) -> int:
    """Count the directions of windows of the maps of ``n_units`` units: at most all of them."""
    if not (isinstance(n_units, Integral) and isinstance(window, Integral)):
        return most  # refused later
    n_sides = len(sides(activation)) if activation in ACTIVATIONS else 1
    return max(1, min(most, n_sides * int(n_units) * int(window) ** 2))


def _fixed_columns(config: TrainConfig, n_images: int | None) -> float:
    """Count the fixed columns of the last stage, for each image of a sub-network.

    ``n_images`` is the number of training images, None for enough of them.
    """
    settings = config.subnetworks
    n_known = settings.n_known * config.units_per_subnetwork
    n_cells = 1
    if config.units.kind == "patch":
        grid = config.units.training_grid or config.units.grid
        n_cells = len(sides(config.units.activation)) * grid**2
    sizes = (settings.images_per_subnetwork, config.n_train, n_images)
    return n_known * n_cells / min(size for size in sizes if size is not None)


def _recipe_for(recipe: str, overrides: Mapping[str, Any]) -> str:
    """Name the recipe whose settings suit the kind of units."""
    of_recipe = RECIPES[recipe].options()["units"]
    on_maps = overrides.get("first_units") is not None
    units = overrides.get("units", "patch" if on_maps else of_recipe)
    if (units == "patch") == (of_recipe == "patch"):
        return recipe
    return "default" if units == "patch" else "bilinear"


def current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give options that were renamed their names of today, with a warning.

    Raises
    ------
    ValueError
        An option that was removed, or one given under both names.
    """
    found = dict(options)
    for old in set(REMOVED) & set(found):
        msg = f"{old} was removed; {REMOVED[old]}."
        raise ValueError(msg)
    for old, new in RENAMED.items():
        if old in found:
            if new in found:
                msg = f"{old} is the old name of {new}: give {new} alone."
                raise ValueError(msg)
            warn_user(f"{old} is now named {new}.", FutureWarning)
            found[new] = found.pop(old)
    return found


def _n_subnetworks(n_units: int, size: int) -> int:
    """Cut ``n_units`` into equal sub-networks of about ``size`` units."""
    found = _size_near(n_units, size)
    if found is None:
        near = next(n for n in range(n_units + 1, 2 * n_units) if _size_near(n, size))
        msg = (
            f"n_units={n_units} cannot be cut into equal sub-networks of about {size} units; "
            f"take n_units={near}, or give n_subnetworks too."
        )
        raise ValueError(msg)
    return n_units // found


def _size_near(n_units: int, size: int) -> int | None:
    """Find the divisor of ``n_units`` that is nearest to ``size``, from half of it to twice."""
    if n_units <= size:
        return n_units
    sizes = [s for s in range(-(-size // 2), 2 * size + 1) if n_units % s == 0]
    return min(sizes, key=lambda s: abs(math.log(s / size)), default=None)
