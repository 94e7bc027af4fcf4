"""One sub-network: draw its images, train its units, and report failures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn.data.augmentation import NO_DISTORTION, Augmentation, distort
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg.threads import Threads, thread_pool
from varpro_nn.output.features import check_finite
from varpro_nn.training.config import Loss, SubnetworkSettings
from varpro_nn.training.layer_inputs import layer_inputs
from varpro_nn.units import PatchUnits, Units
from varpro_nn.units.contract import check_weights
from varpro_nn.units.maps import last_layer
from varpro_nn.varpro.batches import BatchSettings, fit_on_batches
from varpro_nn.varpro.cross_entropy import CrossEntropyFunctional
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional
from varpro_nn.varpro.history import FitReport, join_reports
from varpro_nn.varpro.reduced import ReducedFunctional

FUNCTIONALS: dict[Loss, type[ReducedFunctional]] = {
    "squares": VarProFunctional,
    "cross-entropy": CrossEntropyFunctional,
}
"""The functional of each loss."""
SMALLEST_ROUND = 500
"""Minimum number of images in a round, unless the sub-network has fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class SubnetworkPlan:
    """What all sub-networks of a network share.

    Attributes
    ----------
    units : Units
        The units of one sub-network.
    distortion : Augmentation
        Distortion of the images that a sub-network draws; each round distorts them anew.
    seed : int or SeedSequence
        The random numbers of a sub-network depend only on the seed and the index.
    """

    units: Units
    settings: SubnetworkSettings
    distortion: Augmentation = NO_DISTORTION
    seed: int | np.random.SeedSequence = 0

    def rng_of(self, index: int) -> np.random.Generator:
        """Make the generator of a sub-network, from the seed sequence ``seed.spawn()[index]``."""
        root = self.seed
        if not isinstance(root, np.random.SeedSequence):
            root = np.random.SeedSequence(root)
        # Not by spawn() itself: its results depend on earlier calls.
        own = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, index))
        return np.random.default_rng(own)


@dataclass(frozen=True, slots=True, eq=False)
class Subnetwork:
    """One trained, or failed, sub-network.

    Attributes
    ----------
    index : int
    W : ndarray, shape (h, p), or None
        None if the training failed.
    report : FitReport or None
        None if it failed, or was left untrained.
    error : str
        Why it failed; empty if it did not.
    n_missing_classes : int
        Classes of which its images hold none: its own linear weights say nothing of them.
    layer : {"last", "middle"}
        Layer that the units belong to.
    """

    index: int
    W: FloatArray | None
    report: FitReport | None
    error: str
    n_missing_classes: int
    layer: str = "last"


def round_sizes(settings: SubnetworkSettings, n: int) -> list[int]:
    """Images in each round of a sub-network, of ``n`` in all; each round doubles their number."""
    n_own = min(settings.images_per_subnetwork, n)
    least = min(n_own, SMALLEST_ROUND)
    return [max(n_own >> later, least) for later in reversed(range(settings.n_rounds))]


def train_one(
    training: TrainingSet,
    plan: SubnetworkPlan,
    index: int,
    start: FloatArray | None = None,
    fixed: FloatArray | None = None,
    n_threads: int = 1,
    folder: Path | None = None,
) -> Subnetwork:
    """Draw images, train the units, and tell what went wrong.

    Parameters
    ----------
    training : TrainingSet
        All images; the sub-network draws a random subset.
    start : ndarray, shape (h, p), optional
        Weights to start from.
    fixed : ndarray, shape (any, p), optional
        Weights of units whose columns are not trained.
    n_threads : int
        Threads that share the sums over its images. The result does not depend on them.
    folder : Path, optional
        Where large maps are kept while the sub-network trains (:mod:`.layer_inputs`).
    """
    units, settings, rng = plan.units, plan.settings, plan.rng_of(index)
    n, k = len(training), training.n_targets
    own = rng.choice(n, size=round_sizes(settings, n)[-1], replace=False)
    if settings.n_rounds == 1:
        own.sort()
    labels: Any = training.targets
    n_missing = k - np.unique(labels[own]).size if training.is_classified else 0
    # One thread of BLAS: threads share blocks of images, not single products.
    with thread_pool(n_threads) as threads:
        try:
            W = start
            if W is None:
                W = units.init(training.images[np.sort(own)], rng)
                check_weights(units, W)
            if settings.max_nfev == 0:
                return Subnetwork(index, W, None, "", n_missing)
            reports: list[FitReport] = []
            sizes = round_sizes(settings, n)
            ends = np.cumsum([0, *sizes]) / sum(sizes)
            for number, size in enumerate(sizes):
                some = own[:size]
                images = training.images[some]
                if plan.distortion:
                    images = distort(images, plan.distortion, rng)
                drawn = training.with_images(images, some)
                if settings.solver == "kfac":
                    part = float(ends[number]), float(ends[number + 1])
                    report = _fit_on_batches(plan, drawn, W, rng, part, folder, threads)
                else:
                    report = fit(
                        _functional(plan, drawn, fixed, threads), W, solver=settings.solver,
                        form=settings.form, jacobian=settings.jacobian, max_nfev=settings.max_nfev,
                    )  # fmt: skip
                reports.append(report)
                W = report.w.reshape(units.n_units, units.n_weights)
        except (NonFiniteError, ArithmeticError, np.linalg.LinAlgError) as error:
            reason = f"{type(error).__name__}: {error}"
            return Subnetwork(index, None, None, reason, n_missing)
    return Subnetwork(index, W, join_reports(reports), "", n_missing)


def _fit_on_batches(
    plan: SubnetworkPlan,
    drawn: TrainingSet,
    W: FloatArray,
    rng: np.random.Generator,
    part: tuple[float, float],
    folder: Path | None,
    threads: Threads | None,
) -> FitReport:
    """Train one round with kfac; ``part`` is its begin and end, as fractions of the training."""
    settings = plan.settings
    of_batches = BatchSettings(
        settings.batch_size, settings.max_nfev, settings.ridge, settings.weight_decay, *part
    )
    with layer_inputs(plan.units, drawn.images, folder, threads) as (units, inputs):
        assert isinstance(units, PatchUnits)  # checked by the configuration
        return fit_on_batches(
            units, inputs, drawn.tau(), W, rng, of_batches, drawn.weights, threads
        )


def _functional(
    plan: SubnetworkPlan, drawn: TrainingSet, fixed: FloatArray | None, threads: Threads | None
) -> ReducedFunctional:
    """Make the problem of one round, of all images at once."""
    (units, inputs), settings = last_layer(plan.units, drawn.images), plan.settings
    columns = None if fixed is None else units.features(fixed.astype(np.float32), inputs)
    if columns is not None:
        check_finite(columns)
    make: Any = FUNCTIONALS[settings.loss]  # both take these arguments
    return make(
        units, inputs, drawn.tau(), threads=threads,
        ridge=settings.ridge, weight_decay=settings.weight_decay, fixed=columns,
        sample_weight=drawn.weights,
    )  # fmt: skip
