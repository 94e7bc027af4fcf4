"""The one order of the steps: sub-networks, output layer, measurement, growth, bootstrap."""

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io.atomic import locked
from varpro_nn._io.memory import peak_memory_mib
from varpro_nn._typing import FloatArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError
from varpro_nn.linalg.threads import effective_jobs
from varpro_nn.model.network import Network
from varpro_nn.model.tables import as_html, as_text
from varpro_nn.output.output_layer import OutputLayer
from varpro_nn.training.class_sizes import warn_of_class_sizes
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.estimate import check_before_start
from varpro_nn.training.growth import Growth, growth_of
from varpro_nn.training.layers import train_classifier
from varpro_nn.training.metrics import accuracy, measure
from varpro_nn.training.plan import final_training_set, identity, provenance, streams
from varpro_nn.training.pseudo_labels import BootstrapResult, bootstrap
from varpro_nn.training.resources import Clock, versions
from varpro_nn.training.shards import REFIT, Shards
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.training.subnetworks import NoStore, SubnetworkStore

MEASURED = 10_000
"""Largest number of training images for ``train_accuracy``."""
MEASURED_BYTES = 2**28
"""Largest size of these images, in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    network : Network
    subnetworks : list of Subnetwork
        Sub-networks of the last layer, then the middle layer, if one was trained.
    output_layer : OutputLayer
    metrics : dict
        Plain values; see ``docs/metrics.md`` for what each stands for.
    bootstrap : BootstrapResult or None
    test_outputs : ndarray, shape (n_test, k), or None
        Outputs of the network for the test images.
    growth : Growth or None
        What each sub-network adds, if ``growth`` was asked for.
    """

    network: Network
    subnetworks: list[Subnetwork]
    output_layer: OutputLayer
    metrics: dict[str, Any]
    bootstrap: BootstrapResult | None
    test_outputs: FloatArray | None = None
    growth: Growth | None = None

    def summary(self) -> str:
        """Make a table of the results of the run; the network has a separate table.

        Returns
        -------
        str
        """
        return as_text(self._rows())

    def _repr_html_(self) -> str:
        return as_html(self._rows(), "varpro_nn run")

    def _rows(self) -> list[tuple[str, str]]:
        m = self.metrics
        of_last = [s for s in self.subnetworks if s.layer == "last"]
        costs = [s.report.cost for s in of_last if s.report is not None]
        trained = f"{len(costs)} of {m['n_subnetworks']}"
        if costs:
            trained += f", cost {min(costs):.4g} at best, {np.median(costs):.4g} in the middle"
        rows = [
            (
                "data",
                f"{m['dataset']}: {m['n_train']:,} training images, {m['n_validation']:,} "
                f"validation, {m['n_test']:,} test",
            ),
            ("recipe", f"{m['recipe']}, seed {m['seed']}"),
            *([("refitted", said_of_refit(m))] if m["refitted"] else []),
            ("all parameters", f"{m['n_parameters']:,}"),
            ("trained sub-networks", trained),
            (
                "output layer",
                f"{m['output_layer']}, penalty {m['output_penalty']:.4g} "
                f"({m['output_penalty_chosen_by']})",
            ),
        ]
        for subset in ("validation", "test"):
            if f"{subset}_accuracy" not in m:
                continue
            share, spread, error, by_chance = (
                m[f"{subset}_{name}"]
                for name in (
                    "accuracy", "accuracy_standard_error",
                    "calibration_error", "calibration_error_by_chance",
                )
            )  # fmt: skip
            rows += [
                (f"{subset} accuracy", f"{share:.4f} ± {spread:.4f}"),
                (
                    "calibration error",
                    f"{error:.4f} (exactly right probabilities: {by_chance:.4f})",
                ),
            ]
        seconds = f"{m['training_wall_seconds']:.1f} s, {m['training_cpu_seconds']:.1f} CPU s"
        return [*rows, ("training", seconds)]


def said_of_refit(metrics: Mapping[str, Any]) -> str:
    """Say in a sentence what the saved network of a refitted run has seen."""
    return (
        f"the saved network was trained on all {metrics['n_refit']:,} images, "
        f"{metrics['n_validation']:,} validation images among them; validation figures are of the "
        "first network, which had not seen these"
    )


def run(
    config: TrainConfig,
    dataset: Dataset,
    *,
    n_jobs: int = -1,
    executor: Executor | None = None,
    progress: bool = False,
    shard_folder: Path | None = None,
    keep_sums: bool = False,
    growth: bool = False,
) -> Run:
    """Train on the training set of ``dataset``, then measure on its test set, once.

    With the setting ``refit`` the network is measured on the validation images and then trained
    again on training and validation images. The run has the second network, which the test images
    measure; figures on the validation images are those of the first.

    A run that will take more than ten minutes logs a warning that says how long
    (:func:`varpro_nn.training.estimate.estimate`).

    Parameters
    ----------
    config : TrainConfig
    dataset : Dataset
    n_jobs : int
        Worker processes and threads; -1 for all cores, -2 for all but one. The result does not
        depend on it, bit for bit.
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
    keep_sums : bool
        Keep the sums of a ridge layer without distorted copies, as ``output_layer.ridge_layer``
        of the run: images and units can be added to it and removed.
    growth : bool
        Also measure what each sub-network adds: fit ridge layers to the first sub-networks and to
        random units. The report shows the accuracies.

    Returns
    -------
    Run

    Raises
    ------
    DatasetError, TrainingError
        As :func:`train_network`; test images on another scale than the training images; a
        bootstrap pass without test images; ``refit`` without validation images; or a run that
        needs much more memory than there is.
    BusyError
        Another process works in ``shard_folder``.
    ModelFileError
        Sub-networks in ``shard_folder`` are damaged or belong to other settings or data.
    ValueError
        Settings that the images do not allow (quadratic units for a rectangle, say).

    Warns
    -----
    ClassSizeWarning
        A class has fewer than 10 training images, or the largest class has more than 10 times as
        many as the smallest, and the images have no weights.
    """
    test = dataset.test
    if config.bootstrap.enabled and test is None:
        msg = "bootstrap needs test images, and this data set has none."
        raise DatasetError(msg)
    training = TrainingSet.of(dataset, config.n_train, config.class_weight)
    final = final_training_set(config, dataset) if config.refit else training
    trainings = (training, final) if config.refit else (training,)
    for subset, images in (("test", test), ("validation", dataset.validation)):
        if images is not None:
            _check_scale(training, images, subset)
    origin = provenance(config, dataset, final)
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        stores: list[SubnetworkStore] = [NoStore() for _ in trainings]
        if shard_folder is not None:
            folders = [shard_folder, shard_folder / REFIT][: len(trainings)]
            for folder in folders:
                stack.enter_context(locked(folder))
            stores = [
                Shards(folder, identity(config, some))
                for folder, some in zip(folders, trainings, strict=True)
            ]
        # What a cluster has is not known here, nor what is left of a run that was begun.
        if executor is None and not stores[0].read():
            check_before_start(
                config, dataset, n_jobs=n_jobs, growth=growth, keep_sums=keep_sums,
                scratch=shard_folder,
            )  # fmt: skip
        warn_of_class_sizes(training, dataset.classes)
        clock = Clock()
        compute = stack.enter_context(
            Compute(n_jobs, executor=executor, scratch=shard_folder, progress=progress)
        )
        n_subnetworks = config.subnetworks.n_subnetworks
        n_resumed = sum(index < n_subnetworks for store in stores for index in store.read())
        for number, (some, store) in enumerate(zip(trainings, stores, strict=True), 1):
            compute.stage = f"training {number} of 2" if config.refit else ""
            network, subnetworks, layer = train_classifier(
                config, some, dataset.classes, compute, provenance=origin, store=store,
                keep_sums=keep_sums and some is final,
            )  # fmt: skip
            if some is not final:
                figures, _ = _measured(network, dataset.validation, "validation", n_jobs)
    metrics: dict[str, Any] = {
        "dataset": dataset.name,
        "recipe": config.recipe,
        "n_train": len(training),
        "n_test": 0 if test is None else len(test),
        "n_validation": 0 if dataset.validation is None else len(dataset.validation),
        "refitted": config.refit,
        **({"n_refit": len(final)} if config.refit else {}),
        "n_units": len(network.W),
        "n_parameters": network.n_parameters,
    }
    trained_after = clock.read()
    metrics["train_accuracy"] = _train_accuracy(network, final, n_jobs)
    of_test, outputs = _measured(network, test, "test", n_jobs)
    if not config.refit:
        figures, _ = _measured(network, dataset.validation, "validation", n_jobs)
    metrics.update(**of_test, **figures)
    metrics.update(
        output_layer=layer.name,
        output_penalty=layer.penalty,
        output_penalty_chosen_by=layer.chosen_by,
        **_of_choice(config, layer),
        **_of_rank(layer),
        **_of_convergence(layer),
        scheme=config.subnetworks.scheme if config.subnetworks.max_nfev else "untrained",
        class_weight=config.class_weight,
        views=config.output.views,
        temperature=network.temperature,
        n_subnetworks=config.subnetworks.n_subnetworks,
        n_resumed_subnetworks=n_resumed,
        n_failed_subnetworks=sum(s.W is None for s in subnetworks),
        training_wall_seconds=trained_after[0],
        training_cpu_seconds=trained_after[1],
    )
    grown = None
    if growth:
        before = clock.read()
        grown = growth_of(config, dataset, network, subnetworks, n_jobs=n_jobs)
        taken = [now - then for now, then in zip(clock.read(), before, strict=True)]
        metrics.update(growth_wall_seconds=taken[0], growth_cpu_seconds=taken[1])
    result = None
    if config.bootstrap.enabled and test is not None:
        result, found = _bootstrap(config, network, test, n_jobs, progress)
        metrics["bootstrap"] = {"true_accuracy_before": metrics["test_accuracy"], **found}
    wall, cpu = clock.read()
    metrics.update(
        wall_seconds=wall,
        cpu_seconds=cpu,
        peak_memory_mib=peak_memory_mib(),
        n_jobs=effective_jobs(n_jobs),
        seed=config.seed,
        versions=versions(),
    )
    return Run(network, subnetworks, layer, metrics, result, outputs, grown)


def _measured(
    network: Network, images: ImageSet | None, subset: str, n_jobs: int
) -> tuple[dict[str, Any], FloatArray | None]:
    """Measure a network on images, if there are any; the name of each figure begins with theirs."""
    if images is None:
        return {}, None
    outputs = network.decision_function(images.images, n_jobs=n_jobs)
    figures = measure(network, outputs, images.labels)
    return {f"{subset}_{name}": figure for name, figure in figures.items()}, outputs


def _train_accuracy(network: Network, training: TrainingSet, n_jobs: int) -> float:
    """Accuracy on training images, on a random sample if there are many."""
    images: Any = training.images
    labels: Any = training.targets
    most = min(MEASURED, max(1, MEASURED_BYTES // images[:1].nbytes))
    if len(images) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(images), most, replace=False))
        images, labels = images[rows], labels[rows]
    return accuracy(network.predict_codes(images, n_jobs=n_jobs), labels)


def _check_scale(training: TrainingSet, images: ImageSet, subset: str) -> None:
    """Raise before training if the network would refuse the images of a subset."""
    try:
        training.preparation.check(images.images)
    except ValueError as error:
        msg = f"{subset} {error}"
        raise DatasetError(msg) from error


def _of_rank(layer: OutputLayer) -> dict[str, float]:
    """Say how much of its columns a ridge layer can use."""
    if layer.rank is None or layer.degrees_of_freedom is None or layer.redundant_units is None:
        return {}
    return {
        "rank": layer.rank,
        "degrees_of_freedom": layer.degrees_of_freedom,
        "n_redundant_units": len(layer.redundant_units),
    }


def _of_convergence(layer: OutputLayer) -> dict[str, float]:
    """Say how far a convex layer is from its optimum."""
    if layer.excess is None or layer.gradient_norm is None:
        return {}
    return {
        "output_layer_excess": layer.excess,
        "output_layer_gradient_norm": layer.gradient_norm,
    }


def _of_choice(config: TrainConfig, layer: OutputLayer) -> dict[str, float]:
    """Name the share of training images by which the penalty was chosen."""
    if layer.chosen_by == "split":
        return {"split_accuracy": 1 - layer.error_rate}
    # Where copies of an image stay in, leaving it out says nothing.
    if config.output.n_copies or not np.isfinite(layer.error_rate):
        return {}
    return {"linear_layer_loo_accuracy": 1 - layer.error_rate}


def _bootstrap(
    config: TrainConfig, network: Network, test: ImageSet, n_jobs: int, progress: bool
) -> tuple[BootstrapResult, dict[str, Any]]:
    """Run the pass on the test images; their labels are used only for the true accuracy."""
    # Without failed sub-networks, which have no units.
    n_subnetworks = len(network.W) // config.units_per_subnetwork
    settings = replace(config.subnetworks, n_subnetworks=n_subnetworks, n_stages=1)
    with Compute(n_jobs, progress=progress) as compute:
        result = bootstrap(
            network, test.images, settings, compute,
            distortion=config.distortion, rule=config.bootstrap.rule,
            ridge=config.bootstrap.ridge, seed=streams(config)["bootstrap"],
        )  # fmt: skip
    after = result.network.predict_codes(test.images, n_jobs=n_jobs)
    return result, {
        "agreement_with_guesses": result.agreement_with_guesses,
        "true_accuracy_after": accuracy(after, test.labels),
        "n_ambiguous": int(np.count_nonzero(result.guesses.ambiguous)),
        "rule": config.bootstrap.rule,
        "ridge": config.bootstrap.ridge,
    }
