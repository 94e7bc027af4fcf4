"""The one order of the steps: sub-networks, glue, measurement, bootstrap."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._typing import ImageArray, LabelArray
from varpro_nn.bootstrap import BootstrapResult, bootstrap
from varpro_nn.datasets import Dataset, ImageSet
from varpro_nn.errors import DatasetError
from varpro_nn.glue import RIDGES, GlueReport, glue
from varpro_nn.images import check_images, check_labels
from varpro_nn.jobs import effective_jobs
from varpro_nn.metrics import accuracy, standard_error
from varpro_nn.network import Network
from varpro_nn.recipes import TrainConfig
from varpro_nn.resources import Clock, peak_memory_mib, versions
from varpro_nn.shards import Shards
from varpro_nn.subnetworks import (
    Subnetwork,
    SubnetworkSettings,
    shut_down_workers,
    train_subnetworks,
)
from varpro_nn.units import whole_image_units


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    network : Network
    subnetworks : list of Subnetwork
    glue : GlueReport
    metrics : dict
        Plain values; see ``docs/metrics.md`` for what each stands for.
    bootstrap : BootstrapResult or None
    """

    network: Network
    subnetworks: list[Subnetwork]
    glue: GlueReport
    metrics: dict[str, Any]
    bootstrap: BootstrapResult | None


def train_network(
    config: TrainConfig,
    images: ImageArray,
    labels: LabelArray,
    classes: np.ndarray[Any, Any],
    *,
    n_jobs: int = 1,
    progress: bool = False,
    training: dict[str, Any] | None = None,
    done: Mapping[int, Subnetwork] | None = None,
    keep: Callable[[Subnetwork], None] | None = None,
) -> tuple[Network, list[Subnetwork], GlueReport]:
    """Train a network: the sub-networks, then the glue.

    Parameters
    ----------
    config : TrainConfig
    images : ndarray, shape (n, ...)
    labels : ndarray of int, shape (n,)
        Class numbers, positions in ``classes``.
    classes : ndarray, shape (k,)
    n_jobs : int
    progress : bool
    training : dict, optional
        What the network shall remember of its origin.
    done, keep : optional
        As for :func:`varpro_nn.subnetworks.train_subnetworks`.

    Returns
    -------
    network, subnetworks, glue_report

    Raises
    ------
    DatasetError
        One class alone, or images that are all the same.
    TrainingError
        If all sub-networks failed, or a worker process was killed.
    ValueError
        Images or labels that are not what they should be, or settings that the images do not
        allow (quadratic units for a rectangle, say).
    """
    images = check_images(images)
    labels = check_labels(labels, len(images), len(classes))
    if len(np.unique(labels)) < 2:
        msg = f"training needs images of two classes at least, got {len(np.unique(labels))}."
        raise DatasetError(msg)
    if (images == images[:1]).all():
        msg = "training needs images that differ, got the same pixels in all of them."
        raise DatasetError(msg)
    units = whole_image_units(
        config.units,
        images.shape[1:],
        config.units_per_subnetwork,
        rank=config.rank,
        activation=config.activation,
        gain=config.gain,
    )
    subnetworks = train_subnetworks(
        units, images, labels, len(classes), subnetwork_settings(config),
        seed=_seeds(config)[0], n_jobs=n_jobs, progress=progress,
        done=done, keep=keep,
    )  # fmt: skip
    W = np.concatenate([s.W for s in subnetworks if s.W is not None], dtype=np.float32)
    glued = glue(
        units, W, images, labels, len(classes),
        ridge=RIDGES if config.glue_ridge is None else config.glue_ridge,
        n_jobs=n_jobs, progress=progress,
    )  # fmt: skip
    remembered = {**(training or {}), "largest_intensity": _largest_intensity(images)}
    network = Network(units, W, glued.A, classes, images.shape[1:], remembered)
    return network, subnetworks, glued


def run(
    config: TrainConfig,
    dataset: Dataset,
    *,
    n_jobs: int = -1,
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
    ModelFileError
        Sub-networks in ``shard_folder`` are damaged or belong to other settings or data.
    ValueError
        Settings that the images do not allow (quadratic units for a rectangle, say).
    """
    if config.bootstrap and dataset.test is None:
        msg = "bootstrap needs test images, and this data set has none."
        raise DatasetError(msg)
    clock = Clock()
    part = training_part(config, dataset)
    origin = {"config": asdict(config), "dataset": dataset.name, "digest": part.digest}
    shards = None if shard_folder is None else Shards(shard_folder, _identity(config, part))
    done = {} if shards is None else shards.read()
    network, subnetworks, glued = train_network(
        config, part.images, part.labels, dataset.classes,
        n_jobs=n_jobs, progress=progress, training=origin,
        done=done, keep=None if shards is None else shards.write,
    )  # fmt: skip
    if effective_jobs(n_jobs) > 1:
        shut_down_workers()  # their CPU time and memory can be read once they have ended
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
        linear_layer_loo_accuracy=1 - glued.loo_error[glued.ridges.index(glued.ridge)],
        ridge=glued.ridge,
        n_subnetworks=config.n_subnetworks,
        n_resumed_subnetworks=len(done),
        n_failed_subnetworks=sum(s.W is None for s in subnetworks),
        training_wall_seconds=trained_after[0],
        training_cpu_seconds=trained_after[1],
    )
    result = None
    if config.bootstrap and dataset.test is not None:
        result, metrics["bootstrap"] = _bootstrap(config, network, dataset, n_jobs, progress)
        if effective_jobs(n_jobs) > 1:
            shut_down_workers()
    wall, cpu = clock.read()
    metrics.update(
        wall_seconds=wall,
        cpu_seconds=cpu,
        peak_memory_mib=peak_memory_mib(),
        n_jobs=effective_jobs(n_jobs),
        seed=config.seed,
        versions=versions(),
    )
    return Run(network, subnetworks, glued, metrics, result)


def training_part(config: TrainConfig, dataset: Dataset) -> ImageSet:
    """Images that are trained on: the first ``n_train``, or all."""
    return dataset.train if config.n_train is None else dataset.train.take(slice(config.n_train))


def subnetwork_settings(config: TrainConfig) -> SubnetworkSettings:
    """Pick the settings that concern one sub-network."""
    return SubnetworkSettings(
        n_subnetworks=config.n_subnetworks,
        images_per_subnetwork=config.images_per_subnetwork,
        ridge=config.ridge,
        weight_decay=config.weight_decay,
        fit_options={
            "solver": config.solver,
            "form": config.form,
            "jacobian": config.jacobian,
            "max_nfev": config.max_nfev,
            "patience": config.patience,
        },
    )


def _identity(config: TrainConfig, train: ImageSet) -> dict[str, Any]:
    """All that the weights of a sub-network depend on."""
    later = ("recipe", "glue_ridge", "bootstrap", "bootstrap_rule", "bootstrap_ridge")
    settings = {name: value for name, value in asdict(config).items() if name not in later}
    return {**settings, "data": train.digest, "versions": versions()}


def _largest_intensity(images: ImageArray) -> float:
    return 1.0 if images.dtype == np.uint8 else float(np.abs(images).max())


def _seeds(config: TrainConfig) -> list[np.random.SeedSequence]:
    """Streams for training and for the bootstrap pass."""
    return np.random.SeedSequence(config.seed).spawn(2)


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
        ridge=config.bootstrap_ridge, seed=_seeds(config)[1], n_jobs=n_jobs, progress=progress,
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
