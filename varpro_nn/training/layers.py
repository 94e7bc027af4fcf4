"""Train the two layers: units in sub-networks, then the linear weights of all of them."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, ImageArray, LabelArray, TargetArray
from varpro_nn.compute.pool import executor_for
from varpro_nn.compute.published import DataReference, NamedImages, stored
from varpro_nn.data import ImageSet
from varpro_nn.data.augmentation import distort
from varpro_nn.data.images import (
    BRIGHT,
    blocks_of,
    check_images,
    check_labels,
    check_targets,
    largest_intensity,
)
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.errors import DatasetError
from varpro_nn.linalg.threads import effective_jobs, single_threaded_blas
from varpro_nn.model.network import Network
from varpro_nn.output.calibration import fit_temperature
from varpro_nn.output.output_layer import OutputLayer, check_size, fit_output_layer
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.plan import make_units, streams, subnetwork_settings
from varpro_nn.training.schemes import train_by_scheme
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.units import PatchUnits, WholeImageUnits, units_from_spec

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedUnits:
    """The first layer.

    Attributes
    ----------
    units : PatchUnits or WholeImageUnits
    W : ndarray of float32, shape (h, p)
    subnetworks : list of Subnetwork
    largest_intensity : float
        Of the training images.
    """

    units: PatchUnits | WholeImageUnits
    W: NDArray[np.float32]
    subnetworks: list[Subnetwork]
    largest_intensity: float


def train_units(
    config: TrainConfig,
    images: ImageArray,
    labels: TargetArray,
    n_targets: int,
    *,
    sample_weight: FloatArray | None = None,
    start: FloatArray | None = None,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    folder: Path | None = None,
    progress: bool = False,
    done: Mapping[int, Subnetwork] | None = None,
    keep: Callable[[Subnetwork], None] | None = None,
) -> TrainedUnits:
    """Train units in sub-networks.

    Parameters
    ----------
    config : TrainConfig
    images : ndarray, shape (n, ...)
    labels : ndarray of int, shape (n,); or of float, shape (n, k)
        Class numbers, or real targets (for least squares).
    n_targets : int
        Number of classes, or of targets.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the images in the sums of squares.
    start : ndarray, shape (n_subnetworks, h, p), optional
        Unit weights to start from (schemes independent and untrained); by default drawn.
    n_jobs, executor, data, folder, progress, done, keep : optional
        As for :func:`varpro_nn.training.subnetworks.train_subnetworks`.

    Returns
    -------
    TrainedUnits

    Raises
    ------
    DatasetError
        Images that are all the same.
    TrainingError
        If all sub-networks failed, or the executor broke down.
    ValueError
        Images or labels that are not what they should be, or settings that do not allow them
        (quadratic units for a rectangle; cross-entropy with weights or real targets, say).
    """
    images = check_images(images)
    if config.n_copies and isinstance(images, ImagesOnDisk):
        msg = f"n_copies must be 0 for images on disk, got {config.n_copies}."
        raise ValueError(msg)
    targets = check_targets(labels, len(images), n_targets)
    if config.loss != "squares" and (sample_weight is not None or targets.ndim != 1):
        msg = f"loss must be squares with sample weights or real targets, got {config.loss}."
        raise ValueError(msg)
    if start is not None and config.scheme not in ("independent", "untrained"):
        msg = f"start needs the scheme independent or untrained, got {config.scheme}."
        raise ValueError(msg)
    if (largest := largest_intensity(images)) > BRIGHT:
        _logger.warning(
            "intensities reach %.3g; the settings are for 0 to 1, or bytes as uint8: pictures and "
            "bytes will be refused by this network",
            largest,
        )
    if all((block == images[:1]).all() for block in blocks_of(images)):
        msg = "training needs images that differ, got the same pixels in all of them."
        raise DatasetError(msg)
    seeds = streams(config)
    with single_threaded_blas():  # the same bits on any number of cores
        units = make_units(config, images, np.random.default_rng(seeds["whitening"]))
    check_size(config.n_units * units.n_cells)
    training_units = units
    if isinstance(units, PatchUnits) and config.training_stride is not None:
        # Checked anew: fewer places may be too few for the grid.
        spec = {**units.spec(), "stride": config.training_stride}
        training_units = units_from_spec(spec, units.arrays)
    more: dict[str, Any] = {} if start is None else {"start": start}
    subnetworks = train_by_scheme(
        config.scheme, config.n_stages, training_units, images, targets, n_targets,
        subnetwork_settings(config),
        seed=seeds["training"], n_jobs=n_jobs, executor=executor, data=data, folder=folder,
        sample_weight=sample_weight, progress=progress, done=done, keep=keep, **more,
    )  # fmt: skip
    W = np.concatenate([s.W for s in subnetworks if s.W is not None], dtype=np.float32)
    return TrainedUnits(units, W, subnetworks, largest)


def train_layers(
    config: TrainConfig,
    images: ImageArray,
    labels: TargetArray,
    n_targets: int,
    *,
    sample_weight: FloatArray | None = None,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    folder: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> tuple[TrainedUnits, OutputLayer]:
    """Train units in sub-networks, then fit the output layer of all of them.

    Parameters, errors and the units are those of :func:`train_units`.
    """
    if sample_weight is not None and isinstance(data, NamedImages):
        data = None  # what workers find by name has no weights
    with ExitStack() as stack:
        if data is None and (executor is not None or effective_jobs(n_jobs) > 1):
            here: Any = labels
            data = stack.enter_context(stored(ImageSet(images, here, sample_weight), folder))
        with executor_for(n_jobs, executor) as pool:  # one for all stages
            trained = train_units(
                config, images, labels, n_targets, sample_weight=sample_weight,
                executor=pool, data=data, folder=folder, progress=progress, **options,
            )  # fmt: skip
        rng = np.random.default_rng(streams(config)["output layer"])
        times = 1 + config.n_copies
        layer = fit_output_layer(
            config.output_layer, trained.units, trained.W,
            _with_copies(images, config, rng), np.concatenate([labels] * times), n_targets,
            sample_weight=None if sample_weight is None else np.tile(sample_weight, times),
            penalty=config.glue_ridge, standardise=config.standardise,
            n_copies=times, rng=rng, n_jobs=n_jobs,
            # Copies are on this machine alone.
            executor=None if config.n_copies else executor, data=data, progress=progress,
        )  # fmt: skip
    return trained, layer


def train_network(
    config: TrainConfig,
    images: ImageArray,
    labels: LabelArray,
    classes: NDArray[Any],
    *,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    folder: Path | None = None,
    progress: bool = False,
    training: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Network, list[Subnetwork], OutputLayer]:
    """Train a classifier: the units in sub-networks, then the output layer of all of them.

    Parameters
    ----------
    config : TrainConfig
    images : ndarray, shape (n, ...)
    labels : ndarray of int, shape (n,)
        Class numbers, positions in ``classes``.
    classes : ndarray, shape (k,)
    n_jobs : int
        Worker processes for the sub-networks, then threads for the output layer.
    executor : concurrent.futures.Executor, optional
        Trains the sub-networks instead of worker processes, and makes the sums of a ridge layer.
    data : NamedImages or StoredImages, optional
        Where workers find ``images`` and ``labels``.
    folder : Path, optional
        Where images are put for workers; by default among the temporary files.
    progress : bool
    training : dict, optional
        What the network shall remember of its origin.
    sample_weight, start, done, keep : optional
        As for :func:`train_layers` and :func:`varpro_nn.training.subnetworks.train_subnetworks`.

    Returns
    -------
    network, subnetworks, output_layer
        The network with the temperature that its left-out outputs ask for, if there are any.

    Raises
    ------
    DatasetError
        One class alone, or images that are all the same.
    TrainingError
        If all sub-networks failed, or the executor broke down.
    ValueError
        As :func:`train_layers`.
    """
    images = check_images(images)
    labels = check_labels(labels, len(images), len(classes))
    if len(np.unique(labels)) < 2:
        msg = f"training needs images of two classes at least, got {len(np.unique(labels))}."
        raise DatasetError(msg)
    trained, layer = train_layers(
        config, images, labels, len(classes),
        n_jobs=n_jobs, executor=executor, data=data, folder=folder, progress=progress, **options,
    )  # fmt: skip
    temperature = None
    if layer.left_out is not None:
        rows, weights = layer.left_out.rows, options.get("sample_weight")
        own = None if weights is None else weights[rows]
        temperature = fit_temperature(layer.left_out.outputs, labels[rows], own)
    network = Network(
        trained.units, trained.W, layer.A, classes, images.shape[1:], layer.name, config.views,
        {**(training or {}), "largest_intensity": trained.largest_intensity}, temperature,
    )  # fmt: skip
    return network, trained.subnetworks, layer


def _with_copies(images: ImageArray, config: TrainConfig, rng: np.random.Generator) -> ImageArray:
    """Append the distorted copies that the output layer is fitted on as well."""
    if not config.n_copies:
        return images
    several: Any = np.repeat(images[None], 1 + config.n_copies, axis=0)
    for copy in several[1:]:
        copy[...] = distort(images, config.augmentation, rng)
    return several.reshape(-1, *images.shape[1:])
