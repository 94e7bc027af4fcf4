"""Train the two layers: units in sub-networks, then the linear weights of all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varpro_nn._typing import FloatArray
from varpro_nn._warn import warn_user
from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import check_fitting, distort
from varpro_nn.data.images import blocks_of
from varpro_nn.data.preparation import Preparation
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError, IntensityWarning
from varpro_nn.linalg.blas_limit import single_threaded_blas
from varpro_nn.model.network import Network
from varpro_nn.output.calibration import fit_temperature
from varpro_nn.output.fit import check_size, fit_output_layer
from varpro_nn.output.output_layer import OutputLayer
from varpro_nn.output.ridge_fit import check_kept
from varpro_nn.training.class_sizes import warn_of_class_sizes
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.plan import make_units, streams, units_in_training
from varpro_nn.training.schemes import train_by_scheme
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkPlan
from varpro_nn.training.subnetworks import SubnetworkStore
from varpro_nn.units import Units, UnitsOnMaps, with_n_units
from varpro_nn.units.contract import check_members
from varpro_nn.units.maps import n_columns
from varpro_nn.units.registry import check_dataclass

_BRIGHT = 10.0
"""Intensities beyond this are probably bytes in a floating-point array."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedUnits:
    """The units of a network.

    Attributes
    ----------
    W : ndarray of float32, shape (h, p)
    subnetworks : list of Subnetwork
        Sub-networks of the last layer, then the middle layer, if one was trained.
    preparation : Preparation
        Properties of the training images, for the preparation of new ones.
    """

    units: Units
    W: NDArray[np.float32]
    subnetworks: list[Subnetwork]
    preparation: Preparation


def train_units(
    config: TrainConfig,
    training: TrainingSet,
    compute: Compute,
    *,
    units: Units | None = None,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
) -> TrainedUnits:
    """Train units in sub-networks, from given weights (n_subnetworks, h, p) or drawn ones.

    Without ``units`` they are made as the settings say. ``units`` counts all units of the network.

    Raises
    ------
    DatasetError
        Images that are all the same.
    TrainingError
        If all sub-networks failed, or the executor broke down.
    ValueError
        Settings that the images or the targets do not allow (quadratic units for a rectangle;
        cross-entropy with real targets, say).
    """
    images = training.images
    settings = config.subnetworks
    if config.output.n_copies and training.on_disk:
        msg = (
            f"n_copies must be 0 for images on disk, got {config.output.n_copies}; set n_copies=0, "
            "as configure(data=dataset) does."
        )
        raise ValueError(msg)
    if settings.loss != "squares" and not training.is_classified:
        msg = f"loss must be squares with real targets, got {settings.loss}."
        raise ValueError(msg)
    if start is not None and settings.scheme == "stages":
        msg = f"start needs the scheme independent or untrained, got {settings.scheme}."
        raise ValueError(msg)
    if all((block == images[:1]).all() for block in blocks_of(images)):
        msg = "training needs images that differ, got the same pixels in all of them."
        raise DatasetError(msg)
    _warn_of_intensities(training.preparation)
    seeds = streams(config)

    below: list[Subnetwork] = []

    def train_middle(middle: UnitsOnMaps) -> FloatArray:
        alone = replace(settings, n_subnetworks=1, n_stages=1)
        plan = SubnetworkPlan(middle, alone, config.distortion, seeds["training"])
        (trained,) = train_by_scheme(
            plan, training, compute, first=settings.n_subnetworks, store=store
        )
        assert trained.W is not None  # else all had failed
        below.append(replace(trained, layer="middle"))
        return trained.W

    if units is None:
        with single_threaded_blas():  # the same bits on any number of cores
            rng = np.random.default_rng(seeds["whitening"])
            units = make_units(config, images, rng, train_middle)
    elif config.output.cells_below not in (0, getattr(units, "cells_below", 0)):
        n = config.output.cells_below
        msg = (
            f"cells_below={n} needs units with the same cells_below, the given units have "
            f"{getattr(units, 'cells_below', 0)}; make them with units_on_maps(..., "
            f"cells_below={n}), or set cells_below=0 to keep theirs."
        )
        raise ValueError(msg)
    check_fitting(config.distortion, images.shape)
    check_size(n_columns(units), len(images) * (1 + config.output.n_copies))
    plan = SubnetworkPlan(
        units_in_training(config, units), settings, config.distortion, seeds["training"]
    )
    subnetworks = train_by_scheme(plan, training, compute, start=start, store=store)
    W = np.concatenate([s.W for s in subnetworks if s.W is not None], dtype=np.float32)
    # Fewer units than asked for if a sub-network failed.
    units = with_n_units(units, len(W))
    return TrainedUnits(units, W, [*subnetworks, *below], training.preparation)


def _warn_of_intensities(preparation: Preparation) -> None:
    reached = preparation.intensities
    assert reached is not None
    if max(-reached.low, reached.high) > _BRIGHT:
        msg = (
            f"intensities reach {max(-reached.low, reached.high):.3g}, but the settings are for 0 "
            "to 1; this network will refuse pictures and bytes. Give pixels from 0 to 255 as uint8."
        )
        warn_user(msg, IntensityWarning)


def train_layers(
    config: TrainConfig,
    training: TrainingSet,
    compute: Compute,
    *,
    units: Units | None = None,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
    keep_sums: bool = False,
) -> tuple[TrainedUnits, OutputLayer]:
    """Train units in sub-networks, then fit the output layer of all of them.

    Parameters, errors and the units are as in :func:`train_units`; ``keep_sums`` is as in
    :func:`varpro_nn.output.fit.fit_output_layer`.
    """
    if keep_sums:  # before the work
        check_kept(training, config.output.layer, config.output.n_copies)
    trained = train_units(config, training, compute, units=units, start=start, store=store)
    rng = np.random.default_rng(streams(config)["output layer"])
    layer = fit_output_layer(
        config.output, trained.units, trained.W, _with_copies(training, config, rng), compute,
        rng=rng, keep_sums=keep_sums,
    )  # fmt: skip
    return trained, layer


def train_classifier(
    config: TrainConfig,
    training: TrainingSet,
    classes: NDArray[Any],
    compute: Compute,
    *,
    provenance: Mapping[str, Any] | None = None,
    units: Units | None = None,
    start: FloatArray | None = None,
    store: SubnetworkStore | None = None,
    keep_sums: bool = False,
) -> tuple[Network, list[Subnetwork], OutputLayer]:
    """Train a classifier: the units in sub-networks, then the output layer of all of them.

    The temperature of the network is fitted to the left-out outputs, if there are any. The network
    keeps ``provenance``. Targets are positions in ``classes``. The other parameters are those of
    :func:`train_layers`.

    Raises
    ------
    DatasetError
        Identical images; or images of one class, unless the units stay untrained and sums are kept.
    TrainingError, ValueError
        As :func:`train_units`.
    """
    labels = training.targets
    # To kept sums, images of other classes can be added later.
    more_to_come = keep_sums and config.subnetworks.scheme == "untrained"
    if len(np.unique(labels)) < 2 and not more_to_come:
        msg = f"training needs images of two classes at least, got {len(np.unique(labels))}."
        raise DatasetError(msg)
    trained, layer = train_layers(
        config, training, compute, units=units, start=start, store=store, keep_sums=keep_sums
    )
    temperature = None
    if layer.left_out is not None:
        rows = layer.left_out.rows
        codes: Any = labels[rows]
        temperature = fit_temperature(layer.left_out.outputs, codes, training.weights_at(rows))
    network = Network(
        trained.units, trained.W, layer.A, classes, training.images.shape[1:], layer.name,
        config.output.views, dict(provenance or {}), temperature, trained.preparation,
    )  # fmt: skip
    return network, trained.subnetworks, layer


def train_network(
    config: TrainConfig,
    images: ArrayLike,
    labels: ArrayLike,
    classes: NDArray[Any],
    *,
    sample_weight: ArrayLike | None = None,
    units: Units | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> tuple[Network, list[Subnetwork], OutputLayer]:
    """Train a classifier on arrays.

    Parameters
    ----------
    config : TrainConfig
    images : array_like, shape (n, rows, columns) or (n, channels, rows, columns)
        ``uint8`` (0 to 255), or floating point (intensities).
    labels : array_like of int, shape (n,)
        Positions in ``classes``.
    classes : ndarray, shape (k,)
    sample_weight : array_like, shape (n,), optional
        Weights of the images in sums of squares and losses; the setting ``class_weight``
        multiplies them.
    units : Units, optional
        All units of the network, of a class of your own: a dataclass with a field ``n_units``,
        which replaces the setting ``n_units``. Each sub-network gets a part of the units. Other
        settings of units are not used. ``cells_below`` is also taken from these units; see
        :func:`varpro_nn.units_on_maps`.
    n_jobs : int
        Worker processes and threads; -1 for all cores. No bit of the result depends on it.
    progress : bool
        Show bars on standard error (never off a terminal).

    Returns
    -------
    network : Network
    subnetworks : list of Subnetwork
        With the report of each fit. A middle layer that was trained comes last.
    output_layer : OutputLayer

    Raises
    ------
    DatasetError
        One class alone, or images that are all the same.
    TrainingError
        All sub-networks failed.
    ValueError
        Arrays of a wrong shape or type, or settings that the images do not allow.
    TypeError
        Units that are no such dataclass, or break their contract.

    Warns
    -----
    ClassSizeWarning
        Some class has few training images, or far fewer than another.
    """
    if units is not None:
        check_members(units, to_draw=True)
        check_dataclass(units)
        config = config.with_options(n_units=units.n_units)
    training = TrainingSet.classified(
        images, labels, len(classes), sample_weight, config.class_weight
    )
    warn_of_class_sizes(training, classes)
    with Compute(n_jobs, progress=progress) as compute:
        return train_classifier(config, training, classes, compute, units=units)


def _with_copies(
    training: TrainingSet, config: TrainConfig, rng: np.random.Generator
) -> TrainingSet:
    """Append the distorted copies that the output layer is fitted on as well."""
    if not config.output.n_copies:
        return training
    images, times = training.images, 1 + config.output.n_copies
    several: Any = np.repeat(images[None], times, axis=0)
    for copy in several[1:]:
        copy[...] = distort(images, config.distortion, rng)
    return training.repeated(several.reshape(-1, *images.shape[1:]), times)
