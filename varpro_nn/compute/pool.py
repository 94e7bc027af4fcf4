"""Tasks in worker processes of this machine, in workers of a cluster, or in this process.

The one user of joblib's pool and of a cluster's executor. Tasks are functions of a module with
arguments that are small. A task that keeps killing its worker becomes a result like any other, a
:class:`~varpro_nn.errors.WorkerDiedError`, and the others go on.

A killed worker breaks the whole pool, whichever task it held. So the tasks that had not begun go on
in a new pool. Those that had begun, the suspects, follow in ever smaller groups until each is done
or has died alone.
"""

import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed
from contextlib import contextmanager
from itertools import count
from multiprocessing import current_process, resource_tracker
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker
from joblib.parallel import get_active_backend

from varpro_nn.errors import TrainingError, WorkerDiedError

TRIES = 3
"""How often a task is given to a worker process, if the processes are killed."""
_ORPHAN_SECONDS = 1.0
_HANDING_ON_SECONDS = 0.1

Tasks = Mapping[Any, tuple[Any, ...]]
"""Arguments of each task, by its key."""
Results = Generator[tuple[Any, Any], None, None]
"""Keys and results, as they land."""


class _Suspect:
    """In the place of a result: workers died that held this task, among others perhaps."""


def can_start_processes() -> bool:
    """Whether joblib starts processes from here.

    It does not in a daemonic process (those of ``multiprocessing.Pool`` and of the backend
    "multiprocessing" of joblib), which may have no children, nor in a thread of its own. In a
    process that was forked while joblib's workers were in use it would wait for these, for ever.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    nested = get_active_backend()[0].nesting_level > 0
    return not (current_process().daemon or _TURN.is_lost or (nested and not in_main_thread))


def run_here(function: Callable[..., Any], tasks: Tasks) -> Results:
    """Run the tasks one after the other in this process."""
    for key, arguments in tasks.items():
        yield key, function(*arguments)


class ProcessPool:
    """Worker processes of this machine, from the first task on until :meth:`close`.

    joblib has one pool in a process, so there is one user of it at a time: another thread waits.

    Parameters
    ----------
    n_workers : int
        Two at least: for joblib one would be this process itself.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._is_open = False

    def run(self, function: Callable[..., Any], tasks: Tasks) -> Results:
        """Run the tasks.

        Parameters
        ----------
        function : callable
            A function of a module, which workers import.

        Yields
        ------
        key, result
            As they land. The result of a task that died :data:`TRIES` times or more, the last time
            alone in the pool, is a :class:`~varpro_nn.errors.WorkerDiedError`.

        Raises
        ------
        TrainingError
            A worker could not read a task.
        """
        tries: Counter[Any] = Counter()

        def guilty(key: Any) -> bool:
            return tries[key] >= TRIES

        def run(some: Tasks) -> Results:
            for key, result in self._in_turn(function, some):
                tries[key] += isinstance(result, _Suspect)
                yield key, result

        with _TURN:
            yield from _isolated(run, tasks, guilty, n_groups=2)

    def close(self) -> None:
        """End the workers, so that the system counts what they took as this process's children."""
        if not self._is_open:
            return
        self._is_open = False
        with _TURN:
            # joblib ends its workers where its results are closed before the last task: so these
            # tasks do not end.
            _close(self._start(delayed(time.sleep)(3600) for _ in count()))

    def _in_turn(self, function: Callable[..., Any], tasks: Tasks) -> Results:
        """Run tasks; where the pool breaks, those that had not begun go on in a new one."""
        waiting = list(tasks)
        while waiting:
            begun: list[Any] = []

            def calls(keys: list[Any], begun: list[Any]) -> Iterator[Any]:
                for key in keys:
                    begun.append(key)
                    yield delayed(_guarded)(key, function, tasks[key])

            landed = set()
            results: Any = iter(())
            try:
                results = self._start(calls(waiting, begun))
                for key, result in results:
                    landed.add(key)
                    yield key, result
                    del result
            except BrokenExecutor as error:
                if type(error).__name__ != "TerminatedWorkerError":  # joblib's, for a death
                    msg = f"the worker processes broke down: {error}"
                    raise TrainingError(msg) from error
                for key in begun:
                    if key not in landed:
                        yield key, _Suspect()
            finally:
                _close(results)
            waiting = waiting[len(begun) :]

    def _start(self, calls: Iterable[Any]) -> Any:
        """Hand calls to joblib; a generator of their results."""
        self._is_open = True
        pool = Parallel(
            n_jobs=self._n_workers, backend="loky", batch_size=1, max_nbytes=None,
            return_as="generator_unordered", pre_dispatch=self._n_workers,
            initializer=_prepare_worker, initargs=(os.getpid(),),
        )  # fmt: skip
        # Started now, since each lets interrupts through again in the thread that starts it.
        resource_tracker.ensure_running()
        loky_resource_tracker.ensure_running()
        results = None
        try:
            with _interrupts_held():  # processes begin with the signals that this thread holds back
                results = pool(calls)
        except KeyboardInterrupt:  # held back until now
            _close(results)
            raise
        return results


class _Turn:
    """One thread at a time uses joblib's pool; others wait."""

    def __init__(self) -> None:
        self.is_lost = False
        self._lock = threading.Lock()
        self._holder: int | None = None

    def after_fork_in_child(self) -> None:
        """Start without the workers if they were in use, because they answer only the parent."""
        self.is_lost |= self._lock.locked()
        self._lock = threading.Lock()
        self._holder = None

    def __enter__(self) -> None:
        if self._holder == threading.get_ident():
            msg = "the worker processes are in use by an earlier training that was not closed."
            raise RuntimeError(msg)
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = None
        self._lock.release()


_TURN = _Turn()
os.register_at_fork(after_in_child=_TURN.after_fork_in_child)


def _close(results: Any) -> None:
    """Close what joblib gave; it warns that tasks are cancelled, which is what is asked for."""
    if getattr(results, "gi_frame", None) is not None:  # there is more to come
        # Its manager stumbles over a task that it has not yet handed on to a process.
        time.sleep(_HANDING_ON_SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.close()


def run_on_executor(function: Callable[..., Any], tasks: Tasks, executor: Executor) -> Results:
    """Run the tasks on an executor of ``concurrent.futures``, such as Dask's.

    Yields
    ------
    key, result
        As of :meth:`ProcessPool.run`. A cluster tries a task several times before it reports
        a failure, and blames a death on all tasks that the worker held.

    Raises
    ------
    TrainingError
        The executor broke down as a whole.
    """
    yield from _isolated(
        lambda some: _landing(function, some, executor),
        tasks,
        lambda key: True,
        n_groups=len(tasks),
    )


def _isolated(
    run: Callable[[Tasks], Results],
    tasks: Tasks,
    guilty: Callable[[Any], bool],
    *,
    n_groups: int,
) -> Results:
    """Run tasks; cut suspects into groups and run these, until each is done or dies alone."""
    groups = [list(tasks)]
    while groups:
        group = groups.pop()
        suspects = []
        for key, result in run({key: tasks[key] for key in group}):
            if isinstance(result, _Suspect):
                suspects.append(key)
            else:
                yield key, result
            del result  # it may be large
        if len(group) == 1 and suspects and guilty(group[0]):
            msg = f"the worker process was killed {TRIES} times, probably out of memory"
            yield group[0], WorkerDiedError(msg)
        elif suspects:
            size = -(-len(suspects) // n_groups)
            cut = [suspects[i : i + size] for i in range(0, len(suspects), size)]
            groups += reversed(cut)  # the last one is next


def _landing(function: Callable[..., Any], tasks: Tasks, executor: Executor) -> Results:
    """Submit all tasks; their results as they land."""
    futures = {executor.submit(function, *arguments): key for key, arguments in tasks.items()}
    try:
        for future in as_completed(list(futures)):
            key = futures.pop(future)
            result = _result_of(future)
            del future  # it holds the result, which may be large
            yield key, result
            del result
    finally:
        for future in futures:
            future.cancel()


def _result_of(future: Future[Any]) -> Any:
    """Give the result of a task, or a suspect if its workers died."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError) as error:
        what = str(error) or type(error).__name__
        msg = (
            f"the executor broke down ({what}). In a script, start the pool under "
            "if __name__ == '__main__':. Resume the run to keep what is finished."
        )
        raise TrainingError(msg) from error
    except Exception as error:
        # Dask's, told by its name: nothing here may depend on Dask.
        if type(error).__name__ != "KilledWorker":
            raise
        return _Suspect()


def _guarded(key: Any, fn: Callable[..., Any], args: Any) -> tuple[Any, Any]:
    """Call ``fn`` in a worker; an exception that could not travel is told in words."""
    try:
        return key, fn(*args)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # made here: nothing foreign is read
        except Exception:
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: the driver alone decides on it, workers go on till told."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(driver: int) -> None:
    # Once more: multiprocessing lets interrupts through again where it starts its tracker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(_ORPHAN_SECONDS)
        os._exit(1)  # a driver that was killed can tell nobody

    threading.Thread(target=watch, name="varpro_nn-orphan", daemon=True).start()
