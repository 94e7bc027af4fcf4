"""Schemes: what a sub-network knows of the others while it trains.

=============== ===============================================================================
independent     nothing, as in the paper; all can train at the same time
stages          sub-networks are cut into groups that train one after the other, each with the
                columns of all groups before it fixed in ``Phi``: it learns what they leave open
untrained       nothing, and they do not train: units stay as they were drawn
refine          independent first; then each group in turn trains further, from where it was,
                with the columns of all the others fixed
=============== ===============================================================================

Each sub-network draws its own images in each of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, TargetArray
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkSettings
from varpro_nn.training.subnetworks import check_some_trained, train_subnetworks
from varpro_nn.units import Units
from varpro_nn.varpro.history import join_reports

SCHEMES = ("independent", "stages", "refine", "untrained")
"""The schemes by name."""


def train_by_scheme(
    scheme: str,
    n_stages: int,
    units: Units,
    images: ImageArray,
    labels: TargetArray,
    n_classes: int,
    settings: SubnetworkSettings,
    *,
    seed: int | np.random.SeedSequence = 0,
    done: Mapping[int, Subnetwork] | None = None,
    keep: Callable[[Subnetwork], None] | None = None,
    **options: Any,
) -> list[Subnetwork]:
    """Train all sub-networks by a scheme.

    Parameters
    ----------
    scheme : {"independent", "stages", "refine", "untrained"}
    n_stages : int
        Groups that train one after the other.
    units, images, labels, n_classes, settings, seed, done, keep, options
        As for :func:`varpro_nn.training.subnetworks.train_subnetworks`. Sub-networks that
        ``refine`` has trained further have an index beyond the others.

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

    def train(members: list[int], **more: Any) -> list[Subnetwork]:
        return train_subnetworks(
            units, images, labels, n_classes, settings,
            seed=seed, members=members, done=done, keep=keep, **more, **options,
        )  # fmt: skip

    if scheme == "untrained":
        settings = replace(settings, fit_options={**settings.fit_options, "max_nfev": 0})
    groups = [part.tolist() for part in np.array_split(np.arange(n), n_stages)]
    if scheme != "stages":
        trained = train(list(range(n)))
    else:
        trained = []
        for group in groups:
            earlier = _columns_of(trained)
            fixed = None if earlier is None else dict.fromkeys(group, earlier)
            trained += train(group, fixed=fixed)
    check_some_trained(trained)
    if scheme != "refine":
        return trained
    for group in groups:
        members = [i for i in group if trained[i].W is not None]
        if not members:
            continue
        others = {n + i: _columns_of([s for s in trained if s.index != i]) for i in members}
        further = train(
            [n + i for i in members],
            fixed={i: W for i, W in others.items() if W is not None},
            start={n + i: trained[i].W for i in members},
        )
        for i, subnetwork in zip(members, further, strict=True):
            if subnetwork.W is not None:  # one that fails stays as it was
                reports = [r for r in (trained[i].report, subnetwork.report) if r is not None]
                report = join_reports(reports) if reports else None
                trained[i] = replace(subnetwork, index=i, report=report)
    return trained


def _columns_of(subnetworks: list[Subnetwork]) -> FloatArray | None:
    weights = [s.W for s in subnetworks if s.W is not None]
    return np.concatenate(weights) if weights else None
