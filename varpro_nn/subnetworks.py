"""Independent sub-networks, each trained on its own random images, each a task of its own.

One seed gives one stream of random numbers for each sub-network, and each trains with one thread
of BLAS, so its weights are bitwise the same whichever worker trains it and in whatever order.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, LabelArray
from varpro_nn.augmentation import Augmentation, distort
from varpro_nn.cross_entropy import CrossEntropyFunctional
from varpro_nn.datasets import ImageSet
from varpro_nn.errors import NonFiniteError, TrainingError, WorkerDiedError
from varpro_nn.features import check_finite
from varpro_nn.fit import fit
from varpro_nn.functional import VarProFunctional
from varpro_nn.history import FitReport, join_reports
from varpro_nn.images import check_labels, one_hot
from varpro_nn.jobs import single_threaded_blas
from varpro_nn.pool import executor_for, run_tasks
from varpro_nn.reduced import ReducedFunctional
from varpro_nn.training_data import DataReference, images_of, stored
from varpro_nn.units import Units

FUNCTIONALS: dict[str, type[ReducedFunctional]] = {
    "squares": VarProFunctional,
    "cross-entropy": CrossEntropyFunctional,
}
"""The functional of each loss."""
SMALLEST_ROUND = 500
"""Images of a round at least, where there are so many."""

_logger = logging.getLogger(__name__)


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
    augmentation : Augmentation
        Distortions of the images, drawn anew in each round.
    fit_options : dict
        Keyword arguments of :func:`varpro_nn.fit.fit`. ``max_nfev=0`` leaves the units as they
        were drawn: the untrained network that a trained one is to be compared with.
    """

    n_subnetworks: int
    images_per_subnetwork: int
    ridge: float
    weight_decay: float
    loss: str = "squares"
    n_rounds: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    fit_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.n_subnetworks, self.images_per_subnetwork, self.n_rounds) < 1:
            msg = (
                "n_subnetworks, images_per_subnetwork and n_rounds must be at least 1, "
                f"got {self.n_subnetworks}, {self.images_per_subnetwork} and {self.n_rounds}."
            )
            raise ValueError(msg)
        if self.loss not in FUNCTIONALS:
            msg = f"loss must be one of {', '.join(FUNCTIONALS)}, got {self.loss!r}."
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


def train_subnetworks(
    units: Units,
    images: ImageArray,
    labels: LabelArray,
    n_classes: int,
    settings: SubnetworkSettings,
    *,
    seed: int | np.random.SeedSequence = 0,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    members: Sequence[int] | None = None,
    start: FloatArray | Mapping[int, FloatArray] | None = None,
    fixed: Mapping[int, FloatArray] | None = None,
    done: Mapping[int, Subnetwork] | None = None,
    keep: Callable[[Subnetwork], None] | None = None,
    progress: bool = False,
) -> list[Subnetwork]:
    """Train sub-networks of ``units.n_units`` units each.

    Parameters
    ----------
    units : Units
        Of one sub-network.
    images : ndarray, shape (n, ...)
    labels : ndarray of int, shape (n,)
    n_classes : int
    settings : SubnetworkSettings
    seed : int or SeedSequence
    n_jobs : int
        Worker processes; -1 for all cores. One: train in this process.
    executor : concurrent.futures.Executor, optional
        What runs the training instead: a :class:`varpro_nn.pool.WorkerPool` that is used more
        than once, or a cluster.
    data : NamedImages or StoredImages, optional
        Where workers find ``images`` and ``labels``. By default they are put into a temporary
        folder, which workers on other machines cannot read.
    members : sequence of int, optional
        Indices of the sub-networks to train; by default 0 to ``n_subnetworks - 1``. The index
        alone decides which random numbers one gets.
    start : mapping of int to ndarray (h, p), or ndarray (n_subnetworks, h, p), optional
        Weights to start from. Drawn by ``units.init`` if not given.
    fixed : mapping of int to ndarray (any, p), optional
        Weights of units, for each index, whose columns stand in ``Phi`` but are not trained.
    done : mapping of int to Subnetwork, optional
        Sub-networks, by index, that need not be trained again.
    keep : callable, optional
        ``keep(subnetwork)`` is called, in this process, as soon as one is trained, or has failed
        numerically; not for one whose workers were killed.
    progress : bool
        Show a bar on standard error (never off a terminal).

    Returns
    -------
    list of Subnetwork
        In the order of their index. One that failed numerically, or whose worker was killed each
        time, has no weights and says why.

    Raises
    ------
    TrainingError
        If all of them failed, or the executor broke down.
    ValueError
        Labels that do not fit the images or the number of classes.
    """
    labels = check_labels(labels, len(images), n_classes)
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    chosen = range(settings.n_subnetworks) if members is None else members
    # As root.spawn() makes them, which goes on counting from one call to the next.
    seeds = {
        i: np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, i)) for i in chosen
    }
    finished = {i: subnetwork for i, subnetwork in (done or {}).items() if i in chosen}
    with ExitStack() as stack:
        executor = stack.enter_context(executor_for(n_jobs, executor))
        here = ImageSet(images, labels)
        if executor is not None and data is None and len(finished) < len(chosen):
            data = stack.enter_context(stored(here))
        tasks = {
            index: (
                index, units, here if executor is None else data, n_classes, settings,
                seeds[index], None if start is None else start[index],
                None if fixed is None else fixed.get(index),
            )
            for index in chosen
            if index not in finished
        }  # fmt: skip
        landing = _landing(run_tasks(_train_one, tasks, executor), keep)
        for subnetwork in _with_bar(landing, finished, len(chosen), progress):
            finished[subnetwork.index] = subnetwork
            _log(subnetwork, len(finished), len(chosen))
    results = [finished[index] for index in chosen]
    if members is None:
        check_some_trained(results)
    return results


def check_some_trained(results: Sequence[Subnetwork]) -> None:
    """Raise if all of them failed."""
    if all(subnetwork.W is None for subnetwork in results):
        msg = f"all {len(results)} sub-networks failed; the first: {results[0].error}"
        raise TrainingError(msg)


def _log(subnetwork: Subnetwork, n_finished: int, n_subnetworks: int) -> None:
    report = subnetwork.report
    what = subnetwork.error or "left untrained"
    if report is not None:
        what = f"cost {report.cost:.5g} after {report.n_evaluations} evaluations, {report.reason}"
    _logger.info("sub-network %d (%d of %d): %s", subnetwork.index, n_finished, n_subnetworks, what)


def _landing(
    results: Iterable[tuple[int, Any]], keep: Callable[[Subnetwork], None] | None
) -> Iterator[Subnetwork]:
    """Keep what lands; make a record of a sub-network that killed its workers.

    That record is not kept: whether there is memory for it is another thing the next time.
    """
    for index, result in results:
        if isinstance(result, WorkerDiedError):
            yield Subnetwork(index, None, None, f"{type(result).__name__}: {result}", 0)
            continue
        if keep is not None:
            keep(result)
        yield result


def _train_one(
    index: int,
    units: Units,
    data: DataReference | ImageSet,
    n_classes: int,
    settings: SubnetworkSettings,
    seed: np.random.SeedSequence,
    start: FloatArray | None,
    fixed: FloatArray | None,
) -> Subnetwork:
    """Train one sub-network; what goes wrong in its arithmetic becomes data."""
    part = images_of(data)
    images, labels = part.images, part.labels
    rng = np.random.default_rng(seed)
    n_own = min(settings.images_per_subnetwork, len(images))
    own = rng.choice(len(images), size=n_own, replace=False)
    if settings.n_rounds == 1:
        own.sort()
    n_missing = n_classes - np.unique(labels[own]).size
    # One thread of BLAS: cores are shared by sub-networks, not inside one.
    with single_threaded_blas():
        try:
            W = units.init(images[np.sort(own)], rng) if start is None else start
            if settings.fit_options.get("max_nfev") == 0:
                return Subnetwork(index, W, None, "", n_missing)
            reports = []
            for later_rounds in reversed(range(settings.n_rounds)):
                some = own[: max(n_own >> later_rounds, min(n_own, SMALLEST_ROUND))]
                functional = _functional(
                    units, images[some], labels[some], n_classes, settings, fixed, rng
                )
                reports.append(fit(functional, W, **settings.fit_options))
                W = reports[-1].w.reshape(units.n_units, units.n_weights)
        except (NonFiniteError, ArithmeticError, np.linalg.LinAlgError) as error:
            reason = f"{type(error).__name__}: {error}"
            return Subnetwork(index, None, None, reason, n_missing)
    return Subnetwork(index, W, join_reports(reports), "", n_missing)


def _functional(
    units: Units,
    images: ImageArray,
    labels: LabelArray,
    n_classes: int,
    settings: SubnetworkSettings,
    fixed: FloatArray | None,
    rng: np.random.Generator,
) -> ReducedFunctional:
    """Make the problem of one round."""
    if settings.augmentation:
        images = distort(images, settings.augmentation, rng)
    columns = None if fixed is None else units.features(fixed.astype(np.float32), images)
    if columns is not None:
        check_finite(columns)
    make: Any = FUNCTIONALS[settings.loss]  # the two take these arguments alike
    return make(
        units, images, one_hot(labels, n_classes),
        ridge=settings.ridge, weight_decay=settings.weight_decay, fixed=columns,
    )  # fmt: skip


def _with_bar(
    results: Iterable[Subnetwork], finished: Mapping[int, Subnetwork], total: int, progress: bool
) -> Iterator[Subnetwork]:
    """Pass on results as they come, with a bar that shows the best and the median cost."""
    from tqdm import tqdm  # not at the top: imported where it is used

    costs = [s.report.cost for s in finished.values() if s.report is not None]
    # disable=None: silent where standard error is not a terminal.
    with tqdm(
        total=total,
        initial=len(finished),
        desc="sub-networks",
        disable=None if progress else True,
    ) as bar:
        for subnetwork in results:
            if subnetwork.report is not None:
                costs.append(subnetwork.report.cost)
                bar.set_postfix(
                    best_cost=f"{min(costs):.4g}", median_cost=f"{np.median(costs):.4g}"
                )
            bar.update()
            yield subnetwork
