"""Independent sub-networks: each is one task and trains on a random subset of the images.

One seed gives one stream of random numbers for each sub-network, and each trains with one thread
of BLAS, so its weights are bitwise the same whichever worker trains it and in whatever order.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn._warn import warn_user
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import SubnetworkWarning, TrainingError, WorkerDiedError
from varpro_nn.training.subnetwork import Subnetwork, SubnetworkPlan, train_one

_logger = logging.getLogger(__name__)


class SubnetworkStore(Protocol):
    """Where finished sub-networks are kept, so that a run can go on with them."""

    def read(self) -> Mapping[int, Subnetwork]:
        """Give the sub-networks that need not be trained again, by index."""
        ...

    def write(self, subnetwork: Subnetwork) -> None:
        """Keep one that has just been trained, or has failed numerically."""
        ...


class NoStore:
    """Keeps nothing."""

    def read(self) -> Mapping[int, Subnetwork]:
        """Give nothing."""
        return {}

    def write(self, subnetwork: Subnetwork) -> None:
        """Keep nothing."""


class MemoryStore:
    """Keeps sub-networks in memory."""

    def __init__(self) -> None:
        self._kept: dict[int, Subnetwork] = {}

    def read(self) -> Mapping[int, Subnetwork]:
        """Give what was written."""
        return dict(self._kept)

    def write(self, subnetwork: Subnetwork) -> None:
        """Keep a sub-network."""
        self._kept[subnetwork.index] = subnetwork


def train_subnetworks(
    plan: SubnetworkPlan,
    training: TrainingSet,
    compute: Compute,
    *,
    members: Sequence[int] | None = None,
    start: FloatArray | Mapping[int, FloatArray] | None = None,
    fixed: FloatArray | None = None,
    store: SubnetworkStore | None = None,
) -> list[Subnetwork]:
    """Train sub-networks, and return them in the order of their index.

    A sub-network has no weights but an ``error`` if it failed numerically, or if its worker was
    killed at every try.

    Parameters
    ----------
    compute : Compute
        Each sub-network is one task. With fewer sub-networks than workers, threads share the sums
        of each sub-network.
    members : sequence of int, optional
        Indices of the sub-networks to train; by default 0 to ``n_subnetworks - 1``.
    start : mapping of int to ndarray (h, p), or ndarray (n_subnetworks, h, p), optional
        Weights to start from. Drawn by ``units.init`` if not given.
    fixed : ndarray, shape (any, p), optional
        Weights of units whose columns are in ``Phi`` but are not trained.
    store : SubnetworkStore, optional
        Sub-networks in the store are not trained again. This process writes each new one to the
        store as soon as it is trained. A sub-network whose workers were killed is not written: the
        next run may have enough memory for it.

    Raises
    ------
    TrainingError
        If all of them failed, or the executor broke down.
    """
    chosen = range(plan.settings.n_subnetworks) if members is None else members
    store = NoStore() if store is None else store
    finished = {i: subnetwork for i, subnetwork in store.read().items() if i in chosen}
    missing = [index for index in chosen if index not in finished]
    n_threads = compute.threads_for(len(missing))
    folder = None if compute.on_cluster else compute.scratch  # workers elsewhere may not have it
    tasks = {
        index: (plan, index, None if start is None else start[index], fixed, n_threads, folder)
        for index in missing
    }
    with compute.bar("sub-networks", total=len(chosen), initial=len(finished)) as bar:
        for index, result in compute.map(train_one, training, tasks):
            if isinstance(result, WorkerDiedError):
                reason = f"{type(result).__name__}: {result}"
                finished[index] = Subnetwork(index, None, None, reason, 0)
            else:
                store.write(result)
                finished[index] = result
            _show(bar, finished)
            _log(finished[index], len(finished), len(chosen))
    results = [finished[index] for index in chosen]
    if members is None:
        check_some_trained(results)
    return results


def check_some_trained(results: Sequence[Subnetwork]) -> None:
    """Raise if all of them failed, and warn if some did."""
    failed = [subnetwork for subnetwork in results if subnetwork.W is None]
    if failed and len(failed) == len(results):
        msg = f"all {len(results)} sub-networks failed; the first: {results[0].error}"
        raise TrainingError(msg)
    if failed:
        first = failed[0]
        msg = (
            f"{len(failed)} of {len(results)} sub-networks failed, and the result does not contain "
            f"them; sub-network {first.index}: {first.error.rstrip('.')}. If the failure is "
            "numerical, increase ridge; if memory ran out, reduce n_jobs."
        )
        warn_user(msg, SubnetworkWarning)


def _log(subnetwork: Subnetwork, n_finished: int, n_subnetworks: int) -> None:
    report = subnetwork.report
    what = subnetwork.error or "left untrained"
    if report is not None:
        unit = "passes" if report.solver == "kfac" else "evaluations"
        what = f"cost {report.cost:.5g} after {report.n_evaluations} {unit}, {report.reason}"
    _logger.info("sub-network %d (%d of %d): %s", subnetwork.index, n_finished, n_subnetworks, what)


def _show(bar: Any, finished: Mapping[int, Subnetwork]) -> None:
    """Advance the bar, with the best and the median cost."""
    costs = [s.report.cost for s in finished.values() if s.report is not None]
    if costs:
        bar.set_postfix(best_cost=f"{min(costs):.4g}", median_cost=f"{np.median(costs):.4g}")
    bar.update()
