"""Schemes: what a sub-network knows of the others while it trains.

=============== ===============================================================================
independent     nothing, as in the paper; all can train at the same time
stages          sub-networks are cut into groups that train one after the other, each with the
                columns of all groups before it fixed in ``Phi``: it learns what they leave open
untrained       nothing, and they do not train: units stay as they were drawn
=============== ===============================================================================

Each sub-network draws its own images in each of them.
"""

from dataclasses import replace

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import NO_DISTORTION, Augmentation
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.training.subnetworks import (
    SubnetworkStore,
    check_some_trained,
    train_subnetworks,
)
from varpro_nn.units import Units


def train_by_scheme(
    units: Units,
    training: TrainingSet,
    settings: SubnetworkSettings,
    compute: Compute,
    *,
    distortion: Augmentation = NO_DISTORTION,
    seed: int | np.random.SeedSequence = 0,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
) -> list[Subnetwork]:
    """Train all sub-networks by the scheme of ``settings``.

    Parameters
    ----------
    units, training, settings, compute, distortion, seed, start, store
        As for :func:`varpro_nn.training.subnetworks.train_subnetworks`.

    Returns
    -------
    list of Subnetwork
        One for each of ``settings.n_subnetworks``, in their order.

    Raises
    ------
    TrainingError
        If all sub-networks failed, or the executor broke down.
    """
    if settings.scheme == "untrained":
        settings = replace(settings, max_nfev=0)
    trained: list[Subnetwork] = []
    # One group, but in stages.
    for group in np.array_split(np.arange(settings.n_subnetworks), settings.n_stages):
        trained += train_subnetworks(
            units, training, settings, compute, distortion=distortion, seed=seed,
            members=group.tolist(), start=start, fixed=_columns_of(trained), store=store,
        )  # fmt: skip
    check_some_trained(trained)
    return trained


def _columns_of(subnetworks: list[Subnetwork]) -> FloatArray | None:
    weights = [s.W for s in subnetworks if s.W is not None]
    return np.concatenate(weights) if weights else None
