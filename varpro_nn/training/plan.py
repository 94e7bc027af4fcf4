"""What the settings of a run ask for, in the terms of the parts that do the work."""

from dataclasses import asdict
from typing import Any

import numpy as np

from varpro_nn._typing import ImageArray
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.resources import versions
from varpro_nn.training.subnetwork import SubnetworkSettings
from varpro_nn.units import (
    PatchUnits,
    WholeImageUnits,
    learn_whitening,
    patch_units,
    whole_image_units,
)


def subnetwork_settings(config: TrainConfig) -> SubnetworkSettings:
    """Pick the settings that concern one sub-network."""
    return SubnetworkSettings(
        n_subnetworks=config.n_subnetworks,
        images_per_subnetwork=config.images_per_subnetwork,
        ridge=config.ridge,
        weight_decay=config.weight_decay,
        loss=config.loss,
        n_rounds=config.n_rounds,
        augmentation=config.augmentation,
        fit_options={
            "solver": config.solver,
            "form": config.form,
            "jacobian": config.jacobian,
            "max_nfev": config.max_nfev,
            "patience": config.patience,
        },
    )


def identity(config: TrainConfig, training: TrainingSet) -> dict[str, Any]:
    """All that the weights of a sub-network depend on."""
    later = (
        "recipe", "glue_ridge", "bootstrap", "bootstrap_rule", "bootstrap_ridge", "n_copies",
        "output_layer", "standardise", "views",
    )  # fmt: skip
    settings = {name: value for name, value in asdict(config).items() if name not in later}
    return {**settings, "data": training.digest, "versions": versions()}


def streams(config: TrainConfig) -> dict[str, np.random.SeedSequence]:
    """Streams of random numbers, one for each purpose."""
    purposes = ("training", "bootstrap", "whitening", "output layer")
    streams = np.random.SeedSequence(config.seed).spawn(len(purposes))
    return dict(zip(purposes, streams, strict=True))


def make_units(
    config: TrainConfig, images: ImageArray, rng: np.random.Generator
) -> PatchUnits | WholeImageUnits:
    """Units of one sub-network, whitening learnt on ``images`` if there is any.

    Raises
    ------
    ValueError
        Settings that the images do not allow.
    """
    n_units = config.units_per_subnetwork
    plain: dict[str, Any] = {
        name: getattr(config, name) for name in ("rank", "activation", "gain", "threshold")
    }
    if config.units != "patch":
        return whole_image_units(config.units, images.shape[1:], n_units, **plain)
    names = ("window", "stride", "grid", "contrast", "draw")
    plain.update({name: getattr(config, name) for name in names})
    units = patch_units(config.scalarisation, images.shape[1:], n_units, **plain)
    if config.whitening is None:
        return units
    return learn_whitening(
        units, images, rng, epsilon=config.whitening, n_components=config.n_components
    )
