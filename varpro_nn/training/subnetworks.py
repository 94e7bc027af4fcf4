"""Independent sub-networks, each trained on its own random images, each a task of its own.

One seed gives one stream of random numbers for each sub-network, and each trains with one thread
of BLAS, so its weights are bitwise the same whichever worker trains it and in whatever order.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, TargetArray
from varpro_nn.compute.pool import executor_for, run_tasks
from varpro_nn.compute.published import DataReference, stored
from varpro_nn.data import ImageSet
from varpro_nn.data.images import check_targets
from varpro_nn.errors import TrainingError, WorkerDiedError
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkSettings, train_one
from varpro_nn.units import Units

_logger = logging.getLogger(__name__)


def train_subnetworks(
    units: Units,
    images: ImageArray,
    labels: TargetArray,
    n_classes: int,
    settings: SubnetworkSettings,
    *,
    seed: int | np.random.SeedSequence = 0,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    folder: Path | None = None,
    sample_weight: FloatArray | None = None,
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
    labels : ndarray of int, shape (n,); or of float, shape (n, k)
        Class numbers, or real targets for least squares.
    n_classes : int
        Or number of targets.
    settings : SubnetworkSettings
    seed : int or SeedSequence
    n_jobs : int
        Worker processes; -1 for all cores. One: train in this process.
    executor : concurrent.futures.Executor, optional
        What runs the training instead: a :class:`varpro_nn.compute.pool.WorkerPool` that is used
        more than once, or a cluster.
    data : NamedImages or StoredImages, optional
        Where workers find ``images`` and ``labels``. By default they are put into a temporary
        folder, which workers on other machines cannot read.
    folder : Path, optional
        Where the images of sub-networks that are cut into parts are put for the workers; by
        default among the temporary files.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the images in the sums of squares.
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
    targets: Any = check_targets(labels, len(images), n_classes)
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    chosen = range(settings.n_subnetworks) if members is None else members
    # As root.spawn() makes them, which goes on counting from one call to the next.
    seeds = {
        i: np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, i)) for i in chosen
    }
    finished = {i: subnetwork for i, subnetwork in (done or {}).items() if i in chosen}
    with ExitStack() as stack:
        executor = stack.enter_context(executor_for(n_jobs, executor))
        here = ImageSet(images, targets, sample_weight)
        # One after the other, each with all workers, or each a task of a worker.
        of_parts: tuple[Any, ...] = ()
        if settings.n_parts > 1:
            executor, of_parts = None, (executor, folder)
        if executor is not None and data is None and len(finished) < len(chosen):
            data = stack.enter_context(stored(here))
        tasks = {
            index: (
                index, units, here if executor is None else data, n_classes, settings,
                seeds[index], None if start is None else start[index],
                None if fixed is None else fixed.get(index), *of_parts,
            )
            for index in chosen
            if index not in finished
        }  # fmt: skip
        landing = _landing(run_tasks(train_one, tasks, executor), keep)
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
