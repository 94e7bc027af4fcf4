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
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkPlan
from varpro_nn.training.subnetworks import (
    SubnetworkStore,
    check_some_trained,
    train_subnetworks,
)


def train_by_scheme(
    plan: SubnetworkPlan,
    training: TrainingSet,
    compute: Compute,
    *,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
) -> list[Subnetwork]:
    """Train all sub-networks by the scheme of the plan's settings.

    Parameters and errors are as for :func:`varpro_nn.training.subnetworks.train_subnetworks`.
    """
    settings = plan.settings
    if settings.scheme == "untrained":
        plan = replace(plan, settings=replace(settings, max_nfev=0))
    trained: list[Subnetwork] = []
    # One group, but in stages.
    for group in np.array_split(np.arange(settings.n_subnetworks), settings.n_stages):
        trained += train_subnetworks(
            plan, training, compute,
            members=group.tolist(), start=start, fixed=_columns_of(trained), store=store,
        )  # fmt: skip
    check_some_trained(trained)
    return trained


def _columns_of(subnetworks: list[Subnetwork]) -> FloatArray | None:
    weights = [s.W for s in subnetworks if s.W is not None]
    return np.concatenate(weights) if weights else None
