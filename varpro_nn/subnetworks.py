"""A pool trains independent sub-networks, each on its own random images.

The only user of joblib's pool. One seed gives one stream of random numbers for each sub-network,
and each trains with one thread of BLAS, so its weights are bitwise the same whichever worker
trains it and in whatever order.
"""

import logging
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from varpro_nn._typing import FloatArray, ImageArray, LabelArray
from varpro_nn.errors import NonFiniteError, TrainingError
from varpro_nn.fit import fit
from varpro_nn.functional import VarProFunctional
from varpro_nn.history import FitReport
from varpro_nn.images import check_labels, one_hot
from varpro_nn.jobs import effective_jobs, single_threaded_blas
from varpro_nn.units import Units

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
    fit_options : dict
        Keyword arguments of :func:`varpro_nn.fit.fit`. ``max_nfev=0`` leaves the units as they
        were drawn: the untrained network that a trained one is to be compared with.
    """

    n_subnetworks: int
    images_per_subnetwork: int
    ridge: float
    weight_decay: float
    fit_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n_subnetworks < 1 or self.images_per_subnetwork < 1:
            msg = (
                "n_subnetworks and images_per_subnetwork must be at least 1, "
                f"got {self.n_subnetworks} and {self.images_per_subnetwork}."
            )
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
        Classes of which its images hold none: its linear weights for them are zero.
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
    start: FloatArray | None = None,
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
        Worker processes; -1 for all cores.
    start : ndarray, shape (n_subnetworks, h, p), optional
        Weights to start from. Drawn by ``units.init`` if not given.
    done : mapping of int to Subnetwork, optional
        Sub-networks, by index, that need not be trained again.
    keep : callable, optional
        ``keep(subnetwork)`` is called, in this process, as soon as one is trained.
    progress : bool
        Show a bar on standard error (never off a terminal).

    Returns
    -------
    list of Subnetwork
        In the order of their index. One that failed numerically has no weights and says why.

    Raises
    ------
    TrainingError
        If all of them failed, or a worker process was killed.
    ValueError
        Labels that do not fit the images or the number of classes.
    """
    labels = check_labels(labels, len(images), n_classes)
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    seeds = root.spawn(settings.n_subnetworks)
    finished = {} if done is None else dict(done)
    pool = Parallel(
        n_jobs=effective_jobs(n_jobs),
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch="2*n_jobs",
        # Ctrl-C reaches all processes of a terminal: this one decides, workers go on till told.
        initializer=_ignore_interrupts,
    )
    tasks = (
        delayed(_train_one)(
            index, units, images, labels, n_classes, settings, seeds[index],
            None if start is None else start[index],
        )
        for index in range(settings.n_subnetworks)
        if index not in finished
    )  # fmt: skip
    landing = pool(tasks)
    try:
        for subnetwork in _with_bar(landing, finished, settings.n_subnetworks, progress):
            if keep is not None:
                keep(subnetwork)
            finished[subnetwork.index] = subnetwork
            _log(subnetwork, len(finished), settings.n_subnetworks)
    except TerminatedWorkerError as error:
        msg = (
            f"a worker process was killed, for want of memory perhaps, after {len(finished)} of "
            f"{settings.n_subnetworks} sub-networks; fewer jobs need less memory."
        )
        raise TrainingError(msg) from error
    finally:
        with warnings.catch_warnings():
            # joblib says of an early end that tasks were cancelled: that is what it is.
            warnings.simplefilter("ignore", UserWarning)
            landing.close()
    results = [finished[index] for index in range(settings.n_subnetworks)]
    if all(subnetwork.W is None for subnetwork in results):
        msg = f"all {len(results)} sub-networks failed; the first: {results[0].error}"
        raise TrainingError(msg)
    return results


def _log(subnetwork: Subnetwork, n_finished: int, n_subnetworks: int) -> None:
    report = subnetwork.report
    what = subnetwork.error or "left untrained"
    if report is not None:
        what = f"cost {report.cost:.5g} after {report.n_evaluations} evaluations, {report.reason}"
    _logger.info("sub-network %d (%d of %d): %s", subnetwork.index, n_finished, n_subnetworks, what)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def shut_down_workers() -> None:
    """End idle worker processes: their memory is free and their CPU time can be read."""
    get_reusable_executor().shutdown(wait=True)


def _train_one(
    index: int,
    units: Units,
    images: ImageArray,
    labels: LabelArray,
    n_classes: int,
    settings: SubnetworkSettings,
    seed: np.random.SeedSequence,
    start: FloatArray | None,
) -> Subnetwork:
    """Train one sub-network; what goes wrong in its arithmetic becomes data."""
    rng = np.random.default_rng(seed)
    n_own = min(settings.images_per_subnetwork, len(images))
    own = np.sort(rng.choice(len(images), size=n_own, replace=False))
    own_images, own_labels = images[own], labels[own]
    n_missing = n_classes - np.unique(own_labels).size
    # One thread of BLAS: cores are shared by sub-networks, not inside one.
    with single_threaded_blas():
        try:
            W0 = units.init(own_images, rng) if start is None else start
            if settings.fit_options.get("max_nfev") == 0:
                return Subnetwork(index, W0, None, "", n_missing)
            functional = VarProFunctional(
                units,
                own_images,
                one_hot(own_labels, n_classes),
                ridge=settings.ridge,
                weight_decay=settings.weight_decay,
            )
            report = fit(functional, W0, **settings.fit_options)
        except (NonFiniteError, ArithmeticError, np.linalg.LinAlgError) as error:
            reason = f"{type(error).__name__}: {error}"
            return Subnetwork(index, None, None, reason, n_missing)
    W = report.w.reshape(units.n_units, units.n_weights)
    return Subnetwork(index, W, report, "", n_missing)


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
