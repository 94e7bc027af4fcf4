"""What the settings of a run ask for, in the terms of the parts that do the work."""

from typing import Any

import numpy as np

from varpro_nn._settings import settings_of
from varpro_nn._typing import ImageArray
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.resources import versions
from varpro_nn.units import (
    PatchUnits,
    Units,
    WholeImageUnits,
    learn_whitening,
    patch_units,
    units_from_spec,
    whole_image_units,
    with_n_units,
)


def identity(config: TrainConfig, training: TrainingSet) -> dict[str, Any]:
    """Return everything that the weights of a sub-network depend on.

    The versions of joblib and Python are not included: they change no bit of the weights.
    """
    later = ("recipe", "output", "bootstrap")
    described = settings_of(TrainConfig)
    settings = {o: v for o, v in config.options().items() if described[o].path[0] not in later}
    weights_versions = {n: versions()[n] for n in ("varpro_nn", "numpy", "scipy")}
    return {**settings, "data": training.digest, "versions": weights_versions}


def streams(config: TrainConfig) -> dict[str, np.random.SeedSequence]:
    """Streams of random numbers, one for each purpose."""
    purposes = ("training", "bootstrap", "whitening", "output layer")
    streams = np.random.SeedSequence(config.seed).spawn(len(purposes))
    return dict(zip(purposes, streams, strict=True))


def make_units(
    config: TrainConfig, images: ImageArray, rng: np.random.Generator
) -> PatchUnits | WholeImageUnits:
    """Make the units of the whole network, whitening learnt on ``images`` if there is any.

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
    names = ("window", "stride", "grid", "contrast", "draw")
    plain.update({name: getattr(chosen, name) for name in names})
    units = patch_units(chosen.scalarisation, images.shape[1:], chosen.n_units, **plain)
    if chosen.whitening is None:
        return units
    return learn_whitening(
        units, images, rng, epsilon=chosen.whitening, n_components=chosen.n_components
    )


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
