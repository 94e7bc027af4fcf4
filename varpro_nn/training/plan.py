"""What the settings of a run ask for, in the terms of the parts that do the work."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from varpro_nn._settings import settings_of
from varpro_nn._typing import ImageArray
from varpro_nn.data import Dataset
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError
from varpro_nn.training.config import TrainConfig
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
            "refit needs validation images, and this data set has none; hold some out "
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
    config: TrainConfig, images: ImageArray, rng: np.random.Generator | None
) -> PatchUnits | WholeImageUnits | UnitsOnMaps:
    """Make the units of the whole network, all that precedes them learnt on ``images``.

    Without ``rng``, for sizes alone, nothing is learnt: what would be is of the right shape.

    Raises
    ------
    ValueError
        Settings that the images do not allow.
    """
    chosen = config.units
    plain: dict[str, Any] = {
        name: getattr(chosen, name) for name in ("rank", "activation", "gain", "threshold")
    }
    if chosen.kind != "patch":
        return whole_image_units(chosen.kind, images.shape[1:], chosen.n_units, **plain)
    if config.first.n_units is not None:
        return _units_on_maps(config, images, rng, plain)
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
    config: TrainConfig, images: ImageArray, rng: np.random.Generator | None, plain: dict[str, Any]
) -> UnitsOnMaps:
    """Draw a first layer, learn the projection of its maps, and make the units on these.

    Without ``rng``, what would be drawn and learnt is zero.
    """
    first, chosen = config.first, config.units
    assert first.n_units is not None  # there is one
    n_places = min(images.shape[-2:]) - first.window + 1
    if first.grid > n_places:
        msg = (
            f"first_grid must be at most {n_places}, the places of a window of first_window="
            f"{first.window} pixels in images of shape {images.shape[1:]}, got {first.grid}."
        )
        raise ValueError(msg)
    lower = patch_units(
        "dense", images.shape[1:], first.n_units, window=first.window, grid=first.grid,
        activation=first.activation, threshold=first.threshold, contrast=first.contrast,
        draw="windows",
    )  # fmt: skip
    assert chosen.whitening is not None  # checked by the configuration
    assert chosen.n_components is not None
    if rng is None:
        d = lower.windows.n_pixels
        lower = replace(lower, centre=np.zeros(d), whitening=np.eye(d))
        W = np.zeros((first.n_units, lower.n_weights), np.float32)
        on_windows = PatchUnits("dense", shape_of_maps(lower, len(W)), 1, chosen.window, grid=1)
        check_whitening(on_windows, chosen.whitening, chosen.n_components)
        n_pixels = on_windows.windows.n_pixels
        centre, whitening = np.zeros(n_pixels), np.zeros((chosen.n_components, n_pixels))
        below = Maps(lower, W, chosen.window, centre, whitening)
    else:
        lower = learn_whitening(lower, images, rng, epsilon=first.whitening)
        W = lower.init(images, rng).astype(np.float32)
        below = learn_maps(
            lower, W, images, rng,
            window=chosen.window, epsilon=chosen.whitening, n_components=chosen.n_components,
        )  # fmt: skip
    units = patch_units(
        "dense", below.shape, chosen.n_units,
        window=1, grid=chosen.grid, draw=chosen.draw, **plain,
    )  # fmt: skip
    return units_on_maps(units, below)


def units_in_training(config: TrainConfig, units: Units) -> Units:
    """Make the units of one sub-network while it trains, at the training stride.

    Raises
    ------
    ValueError
        At that stride there are fewer places than cells.
    """
    of_one = with_n_units(units, config.units_per_subnetwork)
    if not isinstance(of_one, PatchUnits) or config.units.training_stride is None:
        return of_one
    spec = {**of_one.spec(), "stride": config.units.training_stride}
    return units_from_spec(spec, of_one.arrays)
