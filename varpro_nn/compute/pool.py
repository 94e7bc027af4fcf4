"""Where tasks run: in this process, in worker processes of this machine, or on a cluster.

One seam: whatever has the interface of ``concurrent.futures.Executor`` serves. :class:`WorkerPool`
is the one for this machine; Dask's ``client.get_executor()`` is one for many. Tasks are functions
of a module with arguments that are small: images go as a reference
(:mod:`varpro_nn.compute.published`), not as arrays. A task that keeps killing its worker becomes a
result like any other, and the rest go on.
"""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
)
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

from varpro_nn.errors import TrainingError, WorkerDiedError
from varpro_nn.linalg.threads import effective_jobs

TRIES = 3
"""How often a task is given to a worker process, if the processes are killed."""
_ORPHAN_SECONDS = 1.0
_HANDING_ON_SECONDS = 0.1
_ENDED = "the pool of workers was ended"


class WorkerPool(ThreadPoolExecutor):
    """Worker processes of this machine, each of which dies alone.

    An executor of ``concurrent.futures``. Every worker is an executor of joblib with one process,
    so one that is killed takes its own task along and no other; the task is tried again in a new
    process, :data:`TRIES` times in all. Workers leave Ctrl-C to this process, and end when it is
    no longer there.

    Parameters
    ----------
    n_workers : int
    """

    def __init__(self, n_workers: int) -> None:
        super().__init__(
            n_workers, thread_name_prefix="varpro_nn-worker", initializer=_hold_interrupts
        )
        self._workers = {_start_worker() for _ in range(n_workers)}
        self._idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._killed = False
        self._changing = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn`` in a worker process; a future of its result.

        The future raises :class:`WorkerDiedError` if all tries ended with a killed process.
        """
        return super().submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        # As many threads as workers: there is always an idle one.
        worker = self._idle.get()
        try:
            for _ in range(TRIES):
                try:
                    return self._start(worker, fn, args, kwargs).result()
                except TerminatedWorkerError:
                    worker = self._replace(worker)
                except BrokenExecutor:  # what cannot be pickled breaks it too
                    worker = self._replace(worker)
                    raise
        finally:
            self._idle.put(worker)
        msg = f"the worker process was killed {TRIES} times, for want of memory perhaps"
        raise WorkerDiedError(msg)

    def _start(self, worker: ProcessPoolExecutor, fn: Any, args: Any, kwargs: Any) -> Future[Any]:
        # Under the lock, so that nothing starts after kill() has looked.
        with self._changing:
            if self._killed:
                raise BrokenExecutor(_ENDED)
            return worker.submit(_guarded, fn, args, kwargs)

    def _replace(self, dead: ProcessPoolExecutor) -> ProcessPoolExecutor:
        dead.shutdown(wait=True)
        with self._changing:
            if self._killed:
                raise BrokenExecutor(_ENDED)
            new = _start_worker()
            self._workers.symmetric_difference_update({dead, new})
            return new

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish what was submitted, then end the processes; always waits for the tasks."""
        super().shutdown(wait=True, cancel_futures=cancel_futures)
        for worker in self._workers:
            worker.shutdown(wait=wait)

    def kill(self) -> None:
        """End the processes now; what was submitted is lost."""
        with self._changing:
            self._killed = True
            workers = list(self._workers)
        super().shutdown(wait=False, cancel_futures=True)
        # loky's manager stumbles over a task that it has not yet handed on to its process.
        time.sleep(_HANDING_ON_SECONDS)
        for worker in workers:
            worker.shutdown(wait=True, kill_workers=True)
        super().shutdown(wait=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.kill()


def executor_for(
    n_jobs: int, executor: Executor | None = None
) -> AbstractContextManager[Executor | None]:
    """Give what tasks run in, for a ``with`` block.

    The executor that is given; else a new pool of ``n_jobs`` processes (-1: one for each core);
    for one job None, which stands for this process.
    """
    if executor is not None:
        return nullcontext(executor)
    n_workers = effective_jobs(n_jobs)
    return nullcontext() if n_workers == 1 else WorkerPool(n_workers)


def run_tasks(
    function: Callable[..., Any], tasks: Mapping[int, tuple[Any, ...]], executor: Executor | None
) -> Iterator[tuple[int, Any]]:
    """Run ``function(*arguments)`` for each task.

    Parameters
    ----------
    function : callable
        A function of a module, which workers import.
    tasks : mapping of int to tuple
        The arguments of each task.
    executor : Executor or None
        None: one after the other in this process.

    Yields
    ------
    key, result
        As they land. The result of a task whose workers were all killed is the
        :class:`~varpro_nn.errors.WorkerDiedError` itself. Dask blames a death on all tasks that
        the worker held, so those that it gives up get another go at the end, each alone.

    Raises
    ------
    TrainingError
        The executor broke down as a whole.
    """
    if executor is None:
        for key, arguments in tasks.items():
            try:
                result = function(*arguments)
            except WorkerDiedError as error:  # of workers that it had itself
                result = error
            yield key, result
        return
    suspects = []
    for key, result in _landing(function, tasks, executor):
        if isinstance(result, _BlamedError):
            suspects.append(key)
            continue
        yield key, result
        del result  # it may be large
    for key in suspects:
        for _, result in _landing(function, {key: tasks[key]}, executor):
            guilty = isinstance(result, _BlamedError)
            yield key, WorkerDiedError(str(result)) if guilty else result


class _BlamedError(WorkerDiedError):
    """Workers died that held this task, among others perhaps."""


def _landing(
    function: Callable[..., Any], tasks: Mapping[int, tuple[Any, ...]], executor: Executor
) -> Iterator[tuple[int, Any]]:
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
    """Give the result of a task, or the error if its workers died."""
    try:
        return future.result()
    except WorkerDiedError as error:
        return error
    except (BrokenExecutor, CancelledError) as error:
        what = str(error) or type(error).__name__
        msg = f"the executor broke down ({what}); what has been kept can be resumed."
        raise TrainingError(msg) from error
    except Exception as error:
        # Dask's, told by its name: nothing here may depend on Dask.
        if type(error).__name__ != "KilledWorker":
            raise
        return _BlamedError("the worker process was killed each time")


def run_in_order(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], executor: Executor | None
) -> Iterator[Any]:
    """Run ``function(*arguments)`` for each task; results in the order of the tasks.

    What lands early waits here, so the tasks should be few.

    Raises
    ------
    WorkerDiedError
        The workers of a task were killed each time.
    TrainingError
        The executor broke down.
    """
    waiting: dict[int, Any] = {}
    n_given = 0
    for number, result in run_tasks(function, dict(enumerate(tasks)), executor):
        if isinstance(result, WorkerDiedError):
            msg = f"part {number} of {len(tasks)} of some sums cannot be had: {result}"
            raise WorkerDiedError(msg)
        waiting[number] = result
        del result
        while n_given in waiting:  # whichever comes first
            yield waiting.pop(n_given)
            n_given += 1


def _guarded(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call ``fn`` in a worker; an exception that could not travel is told in words."""
    try:
        return fn(*args, **kwargs)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # made here: nothing foreign is read
        except Exception:
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise


def _start_worker() -> ProcessPoolExecutor:
    # It starts with its first task: this costs nothing yet.
    return ProcessPoolExecutor(1, initializer=_prepare_worker, initargs=(os.getpid(),))


def _hold_interrupts() -> None:
    # Ctrl-C reaches all processes of a terminal: the driver's main thread decides, workers go on
    # till told. A process that is started in a thread begins with the signals that it holds back.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _prepare_worker(driver: int) -> None:
    # Once more: multiprocessing lets interrupts through again where it starts its tracker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(_ORPHAN_SECONDS)
        os._exit(1)  # a driver that was killed can tell nobody

    threading.Thread(target=watch, name="varpro_nn-orphan", daemon=True).start()
