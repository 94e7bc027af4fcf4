"""What the settings of a run ask for, in the terms of the parts that do the work."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._settings import settings_of
from varpro_nn._typing import FloatArray, ImageArray
from varpro_nn.data import Dataset
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError
from varpro_nn.training.config import TrainConfig, UnitSettings
from varpro_nn.training.resources import versions
from varpro_nn.units import (
    PatchUnits,
    Units,
    UnitsOnMaps,
    WholeImageUnits,
    learn_maps,
    learn_whitening,
    patch_units,
    units_from_spec,
    units_on_maps,
    whole_image_units,
    with_n_units,
)
from varpro_nn.units.maps import Maps, shape_of_maps
from varpro_nn.units.whitening import check_whitening


def identity(config: TrainConfig, training: TrainingSet) -> dict[str, Any]:
    """Return everything that the weights of a sub-network depend on.

    The versions of joblib and Python are not included: they change no bit of the weights.
    """
    later = ("recipe", "refit", "output", "bootstrap")
    described = settings_of(TrainConfig)
    settings = {o: v for o, v in config.options().items() if described[o].path[0] not in later}
    weights_versions = {n: versions()[n] for n in ("varpro_nn", "numpy", "scipy")}
    return {**settings, "data": training.digest, "versions": weights_versions}


def final_training_set(config: TrainConfig, dataset: Dataset) -> TrainingSet:
    """Take the images that the saved network is trained on.

    With ``refit`` these are training and validation images, without it the training images.

    Raises
    ------
    DatasetError
        ``refit`` without validation images, or with some that cannot be merged.
    """
    if config.refit:
        check_refit(config, dataset)
        try:
            dataset = dataset.merged(config.n_train)
        except ValueError as error:
            msg = f"refit: {error}"
            raise DatasetError(msg) from error
    n_train = None if config.refit else config.n_train
    return TrainingSet.of(dataset, n_train, config.class_weight)


def provenance(config: TrainConfig, dataset: Dataset, training: TrainingSet) -> dict[str, Any]:
    """Say where a network comes from: settings, data, and the digest of its training images.

    With ``refit`` the digest of the validation images is there too: the division decides on the
    figures of the run.
    """
    found = {"config": asdict(config), "dataset": dataset.name, "digest": training.digest}
    if config.refit and dataset.validation is not None:
        found["validation_digest"] = dataset.validation.digest
    return found


def check_refit(config: TrainConfig, dataset: Dataset) -> None:
    """Raise DatasetError for ``refit`` without validation images."""
    if config.refit and dataset.validation is None:
        msg = (
            "refit needs validation images, and there are none; hold some out "
            "(--validation 0.2, or Dataset.hold_out(0.2) in Python), or leave refit out to train "
            "once on all images."
        )
        raise DatasetError(msg)


def streams(config: TrainConfig) -> dict[str, np.random.SeedSequence]:
    """Streams of random numbers, one for each purpose."""
    purposes = ("training", "bootstrap", "whitening", "output layer")
    streams = np.random.SeedSequence(config.seed).spawn(len(purposes))
    return dict(zip(purposes, streams, strict=True))


def make_units(
    config: TrainConfig,
    images: ImageArray,
    rng: np.random.Generator | None,
    train: Callable[[UnitsOnMaps], FloatArray] | None = None,
) -> PatchUnits | WholeImageUnits | UnitsOnMaps:
    """Make the units of the whole network, all that precedes them learnt on ``images``.

    ``train`` gives the weights (h, p) of a middle layer. Without ``rng``, for sizes alone, nothing
    is learnt or trained: what would be is of the right shape.

    Raises
    ------
    ValueError
        Settings that the images do not allow.
    """
    chosen = config.units
    plain = _common(chosen)
    if chosen.kind != "patch":
        return whole_image_units(chosen.kind, images.shape[1:], chosen.n_units, **plain)
    if config.first.n_units is not None:
        return _units_on_maps(config, images, rng, train)
    names = ("window", "stride", "grid", "contrast", "draw")
    plain.update({name: getattr(chosen, name) for name in names})
    units = patch_units(chosen.scalarisation, images.shape[1:], chosen.n_units, **plain)
    if chosen.whitening is None:
        return units
    if rng is None:
        d = units.windows.n_pixels
        check_whitening(units, chosen.whitening, chosen.n_components)
        return replace(units, centre=np.zeros(d), whitening=np.eye(d)[: chosen.n_components or d])
    return learn_whitening(
        units, images, rng, epsilon=chosen.whitening, n_components=chosen.n_components
    )


def _units_on_maps(
    config: TrainConfig,
    images: ImageArray,
    rng: np.random.Generator | None,
    train: Callable[[UnitsOnMaps], FloatArray] | None,
) -> UnitsOnMaps:
    """Make the layers below one after the other, and the units on the maps of the last of them."""
    middle, last = config.middle, config.units
    assert last.n_components is not None  # checked by the configuration
    lowest, W = _first_layer(config, images, rng)
    if middle.n_units is None:
        below = _maps(config, lowest, W, images, rng, last.n_components)
        return _layer_on(below, config, last.n_units, last.grid, config.output.cells_below)
    below = _maps(config, lowest, W, images, rng, middle.n_components)
    units = _layer_on(below, config, middle.n_units, middle.cells)
    if rng is None:
        W = np.zeros((units.n_units, units.n_weights), np.float32)
    else:
        assert train is not None  # whoever gives rng trains
        W = train(units).astype(np.float32)
    of_maps = replace(units, units=replace(units.units, grid=middle.grid))
    below = _maps(config, of_maps, W, images, rng, last.n_components)
    return _layer_on(below, config, last.n_units, last.grid, config.output.cells_below)


def _first_layer(
    config: TrainConfig, images: ImageArray, rng: np.random.Generator | None
) -> tuple[PatchUnits, NDArray[np.float32]]:
    """Draw a first layer; without ``rng``, its weights are zero.

    The whitening of its windows is folded into its weights, which saves parameters.
    """
    first = config.first
    assert first.n_units is not None  # there is one
    n_places = min(images.shape[-2:]) - first.window + 1
    if first.grid > n_places:
        msg = (
            f"first_grid must be at most {n_places}, the places of a window of first_window="
            f"{first.window} pixels in images of shape {images.shape[1:]}, got {first.grid}."
        )
        raise ValueError(msg)
    units = patch_units(
        "dense", images.shape[1:], first.n_units, window=first.window, grid=first.grid,
        activation=first.activation, threshold=first.threshold, contrast=first.contrast,
        draw="windows",
    )  # fmt: skip
    if rng is None:
        return units, np.zeros((first.n_units, units.n_weights), np.float32)
    whitened = learn_whitening(units, images, rng, epsilon=first.whitening)
    W = whitened.init(images, rng).astype(np.float32)
    return units, whitened.effective_filters(W)


def _maps(
    config: TrainConfig,
    units: PatchUnits | UnitsOnMaps,
    W: NDArray[np.float32],
    images: ImageArray,
    rng: np.random.Generator | None,
    n_components: int,
) -> Maps:
    """Fix a layer and learn the projection of its maps; without ``rng`` that is zero."""
    window, epsilon = config.units.window, config.units.whitening
    assert epsilon is not None  # checked by the configuration
    if rng is not None:
        return learn_maps(
            units, W, images, rng, window=window, epsilon=epsilon, n_components=n_components
        )
    on_windows = PatchUnits("dense", shape_of_maps(units, len(W)), 1, window, grid=1)
    check_whitening(on_windows, epsilon, n_components)
    n_pixels = on_windows.windows.n_pixels
    return Maps(units, W, window, np.zeros(n_pixels), np.zeros((n_components, n_pixels)))


def _layer_on(
    below: Maps, config: TrainConfig, n_units: int, grid: int, cells_below: int = 0
) -> UnitsOnMaps:
    """Make the middle or the last layer; the last may show the output layer the lower layers."""
    chosen = config.units
    units = patch_units(
        "dense", below.shape, n_units, window=1, grid=grid, draw=chosen.draw,
        **_common(chosen),
    )  # fmt: skip
    return units_on_maps(units, below, cells_below=cells_below)


def _common(chosen: UnitSettings) -> dict[str, Any]:
    """Name what all kinds of units take."""
    names = ("rank", "activation", "gain", "threshold")
    return {name: getattr(chosen, name) for name in names}


def middle_in_training(config: TrainConfig, units: Units) -> UnitsOnMaps | None:
    """Find the middle layer of a network, as it is while it trains; None if there is none."""
    if not (isinstance(units, UnitsOnMaps) and isinstance(units.below.units, UnitsOnMaps)):
        return None
    middle = units.below.units
    return replace(middle, units=replace(middle.units, grid=config.middle.cells))


def units_in_training(config: TrainConfig, units: Units) -> Units:
    """Make the units of one sub-network while it trains, with the stride and grid of training.

    Raises
    ------
    ValueError
        There are fewer places than cells.
    """
    of_one = with_n_units(units, config.units_per_subnetwork)
    given = {"stride": config.units.training_stride, "grid": config.units.training_grid}
    changed = {name: value for name, value in given.items() if value is not None}
    if isinstance(of_one, UnitsOnMaps):
        return replace(of_one, units=_patches_with(of_one.units, changed))
    return _patches_with(of_one, changed) if isinstance(of_one, PatchUnits) else of_one


def _patches_with(units: PatchUnits, changed: Mapping[str, int]) -> PatchUnits:
    found: Any = units_from_spec({**units.spec(), **changed}, units.arrays)
    return found
