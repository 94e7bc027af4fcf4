"""The one order of the steps: sub-networks, output layer, measurement, bootstrap."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._typing import ImageArray, LabelArray
from varpro_nn.augmentation import distort
from varpro_nn.bootstrap import BootstrapResult, bootstrap
from varpro_nn.config import TrainConfig
from varpro_nn.datasets import Dataset, ImageSet
from varpro_nn.errors import DatasetError
from varpro_nn.files import locked
from varpro_nn.images import blocks_of, check_images, check_labels, largest_intensity
from varpro_nn.images_on_disk import ImagesOnDisk
from varpro_nn.jobs import effective_jobs, single_threaded_blas
from varpro_nn.metrics import accuracy, standard_error
from varpro_nn.network import Network
from varpro_nn.output_layer import OutputLayer, check_size, fit_output_layer
from varpro_nn.plan import identity, make_units, streams, subnetwork_settings, training_part
from varpro_nn.pool import executor_for
from varpro_nn.resources import Clock, peak_memory_mib, versions
from varpro_nn.schemes import train_by_scheme
from varpro_nn.shards import Shards
from varpro_nn.subnetwork import Subnetwork
from varpro_nn.training_data import DataReference, NamedImages, remove_left, stored
from varpro_nn.units import PatchUnits, units_from_spec

_BRIGHT = 10.0
"""Intensities beyond this are remarked on: bytes that were handed over as floats, say."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    network : Network
    subnetworks : list of Subnetwork
    output_layer : OutputLayer
    metrics : dict
        Plain values; see ``docs/metrics.md`` for what each stands for.
    bootstrap : BootstrapResult or None
    """

    network: Network
    subnetworks: list[Subnetwork]
    output_layer: OutputLayer
    metrics: dict[str, Any]
    bootstrap: BootstrapResult | None


def train_network(
    config: TrainConfig,
    images: ImageArray,
    labels: LabelArray,
    classes: np.ndarray[Any, Any],
    *,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    folder: Path | None = None,
    progress: bool = False,
    training: dict[str, Any] | None = None,
    done: Mapping[int, Subnetwork] | None = None,
    keep: Callable[[Subnetwork], None] | None = None,
) -> tuple[Network, list[Subnetwork], OutputLayer]:
    """Train a network: the units in sub-networks, then the output layer of all of them.

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
    done, keep : optional
        As for :func:`varpro_nn.subnetworks.train_subnetworks`.

    Returns
    -------
    network, subnetworks, output_layer

    Raises
    ------
    DatasetError
        One class alone, or images that are all the same.
    TrainingError
        If all sub-networks failed, or the executor broke down.
    ValueError
        Images or labels that are not what they should be, or settings that the images do not
        allow (quadratic units for a rectangle, say).
    """
    images = check_images(images)
    if config.n_copies and isinstance(images, ImagesOnDisk):
        msg = f"n_copies must be 0 for images on disk, got {config.n_copies}."
        raise ValueError(msg)
    labels = check_labels(labels, len(images), len(classes))
    if len(np.unique(labels)) < 2:
        msg = f"training needs images of two classes at least, got {len(np.unique(labels))}."
        raise DatasetError(msg)
    if (largest := largest_intensity(images)) > _BRIGHT:
        _logger.warning("intensities reach %.3g; the settings are for 0 to 1, or bytes", largest)
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
    rng = np.random.default_rng(seeds["output layer"])
    with ExitStack() as stack:
        if data is None and (executor is not None or effective_jobs(n_jobs) > 1):
            data = stack.enter_context(stored(ImageSet(images, labels), folder))
        with executor_for(n_jobs, executor) as pool:  # one for all stages
            subnetworks = train_by_scheme(
                config.scheme, config.n_stages, training_units, images, labels, len(classes),
                subnetwork_settings(config),
                seed=seeds["training"], executor=pool, data=data, folder=folder,
                progress=progress, done=done, keep=keep,
            )  # fmt: skip
        W = np.concatenate([s.W for s in subnetworks if s.W is not None], dtype=np.float32)
        layer = fit_output_layer(
            config.output_layer, units, W,
            _with_copies(images, config, rng),
            np.tile(labels, 1 + config.n_copies), len(classes),
            penalty=config.glue_ridge, standardise=config.standardise,
            n_copies=1 + config.n_copies, rng=rng, n_jobs=n_jobs,
            # Copies are on this machine alone.
            executor=None if config.n_copies else executor, data=data, progress=progress,
        )  # fmt: skip
    remembered = {**(training or {}), "largest_intensity": largest}
    network = Network(
        units, W, layer.A, classes, images.shape[1:], layer.name, config.views, remembered
    )
    return network, subnetworks, layer


def run(
    config: TrainConfig,
    dataset: Dataset,
    *,
    n_jobs: int = -1,
    executor: Executor | None = None,
    progress: bool = False,
    shard_folder: Path | None = None,
) -> Run:
    """Train on the training set of ``dataset``, then measure on its test set, once.

    Parameters
    ----------
    config : TrainConfig
    dataset : Dataset
    n_jobs : int
        Worker processes and threads; -1 for all cores. No bit of the result depends on it.
    executor : concurrent.futures.Executor, optional
        Trains the sub-networks instead of worker processes of this machine, and makes the sums of
        a ridge layer without distorted copies. Its workers load the
        data set themselves if it comes from :func:`varpro_nn.load`; otherwise they read a copy
        in ``shard_folder``.
    progress : bool
        Show a bar on standard error.
    shard_folder : Path, optional
        Keep each sub-network there as soon as it is trained, and go on with those that are
        there already.

    Returns
    -------
    Run

    Raises
    ------
    DatasetError, TrainingError
        As :func:`train_network`; or a bootstrap pass without test images.
    BusyError
        Another process works in ``shard_folder``.
    ModelFileError
        Sub-networks in ``shard_folder`` are damaged or belong to other settings or data.
    ValueError
        Settings that the images do not allow (quadratic units for a rectangle, say).
    """
    if executor is not None and not isinstance(executor, Executor):
        msg = f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}."
        raise TypeError(msg)
    if config.bootstrap and dataset.test is None:
        msg = "bootstrap needs test images, and this data set has none."
        raise DatasetError(msg)
    clock = Clock()
    part = training_part(config, dataset)
    origin = {"config": asdict(config), "dataset": dataset.name, "digest": part.digest}
    with ExitStack() as stack:
        if shard_folder is not None:
            stack.enter_context(locked(shard_folder))
            remove_left(shard_folder)
        shards = None if shard_folder is None else Shards(shard_folder, identity(config, part))
        done = {} if shards is None else shards.read()
        data: DataReference | None = None
        elsewhere = executor is not None or isinstance(part.images, ImagesOnDisk)
        if elsewhere and (source := dataset.loadable) is not None:
            data = NamedImages(source.name, source.data_dir, config.n_train, part.digest)
        elif executor is not None or effective_jobs(n_jobs) > 1:
            data = stack.enter_context(stored(part, shard_folder))
        network, subnetworks, layer = train_network(
            config, part.images, part.labels, dataset.classes,
            n_jobs=n_jobs, executor=executor, data=data, folder=shard_folder,
            progress=progress, training=origin, done=done,
            keep=None if shards is None else shards.write,
        )  # fmt: skip
    metrics: dict[str, Any] = {
        "dataset": dataset.name,
        "recipe": config.recipe,
        "n_train": len(part),
        "n_test": 0 if dataset.test is None else len(dataset.test),
        "n_units": len(network.W),
        "n_parameters": network.n_parameters,
    }
    trained_after = clock.read()
    train_codes = network.predict_codes(part.images, n_jobs=n_jobs)
    metrics["train_accuracy"] = accuracy(train_codes, part.labels)
    if dataset.test is not None:
        metrics.update(_measure(network, dataset, n_jobs))
    metrics.update(
        output_layer=layer.name,
        ridge=layer.penalty,
        ridge_chosen_by=layer.chosen_by,
        **_of_choice(config, layer),
        **_of_rank(layer),
        scheme=config.scheme if config.max_nfev else "untrained",
        views=config.views,
        n_subnetworks=config.n_subnetworks,
        n_resumed_subnetworks=sum(index < config.n_subnetworks for index in done),
        n_failed_subnetworks=sum(s.W is None for s in subnetworks),
        training_wall_seconds=trained_after[0],
        training_cpu_seconds=trained_after[1],
    )
    result = None
    if config.bootstrap and dataset.test is not None:
        result, metrics["bootstrap"] = _bootstrap(config, network, dataset, n_jobs, progress)
    wall, cpu = clock.read()
    metrics.update(
        wall_seconds=wall,
        cpu_seconds=cpu,
        peak_memory_mib=peak_memory_mib(),
        n_jobs=effective_jobs(n_jobs),
        seed=config.seed,
        versions=versions(),
    )
    return Run(network, subnetworks, layer, metrics, result)


def _with_copies(images: ImageArray, config: TrainConfig, rng: np.random.Generator) -> ImageArray:
    """Append the distorted copies that the output layer is fitted on as well."""
    if not config.n_copies:
        return images
    several: Any = np.repeat(images[None], 1 + config.n_copies, axis=0)
    for copy in several[1:]:
        copy[...] = distort(images, config.augmentation, rng)
    return several.reshape(-1, *images.shape[1:])


def _of_rank(layer: OutputLayer) -> dict[str, float]:
    """Say how much of its columns a ridge layer can use."""
    if layer.rank is None or layer.degrees_of_freedom is None or layer.redundant_units is None:
        return {}
    return {
        "rank": layer.rank,
        "degrees_of_freedom": layer.degrees_of_freedom,
        "n_redundant_units": len(layer.redundant_units),
    }


def _of_choice(config: TrainConfig, layer: OutputLayer) -> dict[str, float]:
    """Name the share of training images by which the penalty was chosen."""
    if layer.chosen_by == "split":
        return {"split_accuracy": 1 - layer.error_rate}
    # Where copies of an image stay in, leaving it out says nothing.
    if config.n_copies or not np.isfinite(layer.error_rate):
        return {}
    return {"linear_layer_loo_accuracy": 1 - layer.error_rate}


def _measure(network: Network, dataset: Dataset, n_jobs: int) -> dict[str, Any]:
    assert dataset.test is not None  # the caller has looked
    codes = network.predict_codes(dataset.test.images, n_jobs=n_jobs)
    share = accuracy(codes, dataset.test.labels)
    return {
        "test_accuracy": share,
        "test_accuracy_standard_error": standard_error(share, len(dataset.test)),
    }


def _bootstrap(
    config: TrainConfig, network: Network, dataset: Dataset, n_jobs: int, progress: bool
) -> tuple[BootstrapResult, dict[str, Any]]:
    """Run the pass on the test images; their labels are opened for the last two figures alone."""
    assert dataset.test is not None
    images, labels = dataset.test.images, dataset.test.labels
    # The sub-networks that are there: one that failed in training left no units.
    n_parts = len(network.W) // config.units_per_subnetwork
    settings = replace(subnetwork_settings(config), n_subnetworks=n_parts)
    before = network.predict_codes(images, n_jobs=n_jobs)
    result = bootstrap(
        network, images, settings,
        rule=config.bootstrap_rule,  # type: ignore[arg-type]
        ridge=config.bootstrap_ridge, seed=streams(config)["bootstrap"], n_jobs=n_jobs,
        progress=progress,
    )  # fmt: skip
    after = result.network.predict_codes(images, n_jobs=n_jobs)
    return result, {
        "agreement_with_guesses": result.agreement_with_guesses,
        "true_accuracy_before": accuracy(before, labels),
        "true_accuracy_after": accuracy(after, labels),
        "n_ambiguous": int(np.count_nonzero(result.guesses.ambiguous)),
        "rule": config.bootstrap_rule,
        "ridge": config.bootstrap_ridge,
    }
