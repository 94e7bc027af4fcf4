"""One sub-network: its images are drawn, its units trained, and what went wrong is told."""

from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn.compute.published import DataReference, images_of, stored
from varpro_nn.data import ImageSet
from varpro_nn.data.augmentation import Augmentation, distort
from varpro_nn.data.images import targets_of
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg.threads import single_threaded_blas
from varpro_nn.output.features import check_finite
from varpro_nn.training.partitioned import PartitionedFunctional
from varpro_nn.units import Units
from varpro_nn.varpro.cross_entropy import CrossEntropyFunctional
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional
from varpro_nn.varpro.history import FitReport, join_reports
from varpro_nn.varpro.reduced import ReducedFunctional

FUNCTIONALS: dict[str, type[ReducedFunctional]] = {
    "squares": VarProFunctional,
    "cross-entropy": CrossEntropyFunctional,
}
"""The functional of each loss."""
SMALLEST_ROUND = 500
"""Images of a round at least, where there are so many."""


@dataclass(frozen=True, slots=True)
class SubnetworkSettings:
    """How sub-networks are trained.

    Attributes
    ----------
    n_subnetworks : int
    images_per_subnetwork : int
        Images that each draws without replacement (all of them if there are fewer).
    ridge, weight_decay : float
        ``lam`` and ``nu`` of the functional.
    loss : {"squares", "cross-entropy"}
    n_rounds : int
        Fits one after the other, each on twice the images of the one before.
    n_parts : int
        More than one: sub-networks train one after the other, and the sums of each are shared
        among the workers, in so many parts; see :mod:`varpro_nn.training.partitioned`.
    augmentation : Augmentation
        Distortions of the images, drawn anew in each round.
    fit_options : dict
        Keyword arguments of :func:`varpro_nn.varpro.fit.fit`. ``max_nfev=0`` leaves the units as
        they were drawn: the untrained network that a trained one is to be compared with.
    """

    n_subnetworks: int
    images_per_subnetwork: int
    ridge: float
    weight_decay: float
    loss: str = "squares"
    n_rounds: int = 1
    n_parts: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    fit_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_subnetworks", "images_per_subnetwork", "n_rounds", "n_parts"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, got {getattr(self, name)}."
                raise ValueError(msg)
        if self.loss not in FUNCTIONALS:
            msg = f"loss must be one of {', '.join(FUNCTIONALS)}, got {self.loss!r}."
            raise ValueError(msg)
        if self.n_parts > 1 and self.loss != "squares":
            msg = f"n_parts={self.n_parts} needs the loss squares, got {self.loss}."
            raise ValueError(msg)


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
    """

    index: int
    W: FloatArray | None
    report: FitReport | None
    error: str
    n_missing_classes: int


def train_one(
    index: int,
    units: Units,
    data: DataReference | ImageSet,
    n_classes: int,
    settings: SubnetworkSettings,
    seed: np.random.SeedSequence,
    start: FloatArray | None,
    fixed: FloatArray | None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> Subnetwork:
    """Train one sub-network; what goes wrong in its arithmetic becomes data.

    Parameters
    ----------
    index : int
    units : Units
    data : NamedImages, StoredImages or ImageSet
        All training images.
    n_classes : int
    settings : SubnetworkSettings
    seed : SeedSequence
    start : ndarray (h, p), optional
        Weights to start from. None: drawn.
    fixed : ndarray (any, p), optional
        Weights of units whose columns are not trained.
    executor : Executor, optional
        Workers that share its sums, where ``settings`` cuts them into parts.
    folder : Path, optional
        Where those workers find its images; by default among the temporary files.

    Returns
    -------
    Subnetwork
    """
    part = images_of(data)
    images, labels, weights = part.images, part.labels, part.weights
    rng = np.random.default_rng(seed)
    n_own = min(settings.images_per_subnetwork, len(images))
    own = rng.choice(len(images), size=n_own, replace=False)
    if settings.n_rounds == 1:
        own.sort()
    n_missing = n_classes - np.unique(labels[own]).size if labels.ndim == 1 else 0
    # One thread of BLAS: cores are shared by sub-networks, not inside one.
    with single_threaded_blas():
        try:
            W = units.init(images[np.sort(own)], rng) if start is None else start
            if settings.fit_options.get("max_nfev") == 0:
                return Subnetwork(index, W, None, "", n_missing)
            reports = []
            for later_rounds in reversed(range(settings.n_rounds)):
                some = own[: max(n_own >> later_rounds, min(n_own, SMALLEST_ROUND))]
                own_images = images[some]
                if settings.augmentation:
                    own_images = distort(own_images, settings.augmentation, rng)
                with ExitStack() as stack:
                    here = ImageSet(
                        own_images, labels[some], None if weights is None else weights[some]
                    )
                    if settings.n_parts == 1:
                        functional = _functional(units, here, n_classes, settings, fixed)
                    else:
                        functional = PartitionedFunctional(
                            units, here, n_classes, executor=executor,
                            data=stack.enter_context(stored(here, folder)) if executor else None,
                            n_parts=settings.n_parts, fixed=fixed,
                            ridge=settings.ridge, weight_decay=settings.weight_decay,
                        )  # fmt: skip
                    reports.append(fit(functional, W, **settings.fit_options))
                W = reports[-1].w.reshape(units.n_units, units.n_weights)
        except (NonFiniteError, ArithmeticError, np.linalg.LinAlgError) as error:
            reason = f"{type(error).__name__}: {error}"
            return Subnetwork(index, None, None, reason, n_missing)
    return Subnetwork(index, W, join_reports(reports), "", n_missing)


def _functional(
    units: Units,
    here: ImageSet,
    n_classes: int,
    settings: SubnetworkSettings,
    fixed: FloatArray | None,
) -> ReducedFunctional:
    """Make the problem of one round, of all images at once."""
    columns = None if fixed is None else units.features(fixed.astype(np.float32), here.images)
    if columns is not None:
        check_finite(columns)
    make: Any = FUNCTIONALS[settings.loss]  # the two take these arguments alike
    weighted = {} if here.weights is None else {"sample_weight": here.weights}
    return make(
        units, here.images, targets_of(here.labels, n_classes),
        ridge=settings.ridge, weight_decay=settings.weight_decay, fixed=columns, **weighted,
    )  # fmt: skip
