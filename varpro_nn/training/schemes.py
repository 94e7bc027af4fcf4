"""Schemes: what a sub-network knows of the others while it trains.

=============== ===============================================================================
independent     nothing, as in the paper; all can train at the same time
stages          groups of sub-networks train one after the other, each with the columns of all
                earlier groups fixed in ``Phi``: it learns what they do not explain
untrained       nothing; units do not train and stay random
=============== ===============================================================================

In every scheme each sub-network draws a random subset of the images.
"""

from dataclasses import replace

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkPlan, round_sizes
from varpro_nn.training.subnetworks import (
    SubnetworkStore,
    check_some_trained,
    train_subnetworks,
)
from varpro_nn.varpro.functional import interpolates


def train_by_scheme(
    plan: SubnetworkPlan,
    training: TrainingSet,
    compute: Compute,
    *,
    first: int = 0,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
) -> list[Subnetwork]:
    """Train all sub-networks by the scheme of the plan's settings.

    ``first`` is the index of the first one. Other parameters and errors are as for
    :func:`varpro_nn.training.subnetworks.train_subnetworks`; also ValueError for sub-networks
    without a ridge that have too few images to learn from.
    """
    settings = plan.settings
    _check_determined(plan, len(training))
    if settings.scheme == "untrained":
        plan = replace(plan, settings=replace(settings, max_nfev=0))
    trained: list[Subnetwork] = []
    for group in settings.stages:
        trained += train_subnetworks(
            plan, training, compute,
            members=(first + group).tolist(), start=start, fixed=_columns_of(trained), store=store,
        )  # fmt: skip
    check_some_trained(trained)
    return trained


def _check_determined(plan: SubnetworkPlan, n_images: int) -> None:
    """Refuse sub-networks whose linear weights fit any labels, so that weight decay alone decides.

    Raises
    ------
    ValueError
    """
    settings = plan.settings
    # A sub-network of the last group has the columns of all earlier groups beside its own.
    n_units = (1 + settings.n_known) * plan.units.n_units
    q, n = n_units * plan.units.n_cells + 1, round_sizes(settings, n_images)[0]
    trained = settings.scheme != "untrained" and settings.max_nfev > 0
    if trained and settings.weight_decay > 0 and interpolates(n, q, settings.ridge):
        msg = (
            f"ridge must be positive for sub-networks of {n} images and {q} columns, got 0: the "
            "linear weights fit any labels, and weight decay takes the unit weights to 0."
        )
        raise ValueError(msg)


def _columns_of(subnetworks: list[Subnetwork]) -> FloatArray | None:
    weights = [s.W for s in subnetworks if s.W is not None]
    return np.concatenate(weights) if weights else None
