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
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkSettings
from varpro_nn.training.subnetworks import (
    SubnetworkStore,
    check_some_trained,
    train_subnetworks,
)
from varpro_nn.units import Units

SCHEMES = ("independent", "stages", "untrained")
"""The schemes by name."""


def train_by_scheme(
    scheme: str,
    n_stages: int,
    units: Units,
    training: TrainingSet,
    settings: SubnetworkSettings,
    compute: Compute,
    *,
    seed: int | np.random.SeedSequence = 0,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
) -> list[Subnetwork]:
    """Train all sub-networks by a scheme.

    Parameters
    ----------
    scheme : {"independent", "stages", "untrained"}
    n_stages : int
        Groups that train one after the other.
    units, training, settings, compute, seed, start, store
        As for :func:`varpro_nn.training.subnetworks.train_subnetworks`.

    Returns
    -------
    list of Subnetwork
        One for each of ``settings.n_subnetworks``, in their order.

    Raises
    ------
    TrainingError
        If all sub-networks failed, or the executor broke down.
    ValueError
        An unknown scheme, or more stages than sub-networks.
    """
    if scheme not in SCHEMES:
        msg = f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}."
        raise ValueError(msg)
    n = settings.n_subnetworks
    if not 1 <= n_stages <= n:
        msg = f"n_stages must be 1 to the number of sub-networks, {n}, got {n_stages}."
        raise ValueError(msg)
    if scheme == "untrained":
        settings = replace(settings, fit_options={**settings.fit_options, "max_nfev": 0})
    parts = np.array_split(np.arange(n), n_stages if scheme == "stages" else 1)
    trained: list[Subnetwork] = []
    for group in (part.tolist() for part in parts):
        earlier = _columns_of(trained)
        trained += train_subnetworks(
            units, training, settings, compute, seed=seed, members=group, start=start,
            fixed=None if earlier is None else dict.fromkeys(group, earlier), store=store,
        )  # fmt: skip
    check_some_trained(trained)
    return trained


def _columns_of(subnetworks: list[Subnetwork]) -> FloatArray | None:
    weights = [s.W for s in subnetworks if s.W is not None]
    return np.concatenate(weights) if weights else None
