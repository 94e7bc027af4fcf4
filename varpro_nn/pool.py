"""Where tasks run: in this process, in worker processes of this machine, or on a cluster.

One seam: whatever has the interface of ``concurrent.futures.Executor`` serves. :class:`WorkerPool`
is the one for this machine; Dask's ``client.get_executor()`` is one for many. Tasks are functions
of a module with arguments that are small: images go as a reference
(:mod:`varpro_nn.training_data`), not as arrays. A task that keeps killing its worker becomes a
result like any other, and the rest go on.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

from varpro_nn.errors import TrainingError, WorkerDiedError
from varpro_nn.jobs import effective_jobs

TRIES = 3
"""How often a task is given to a worker process, if the processes are killed."""
_ORPHAN_SECONDS = 1.0


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
        super().__init__(n_workers, thread_name_prefix="varpro_nn-worker")
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
                    return worker.submit(fn, *args, **kwargs).result()
                except TerminatedWorkerError:
                    worker = self._replace(worker)
        finally:
            self._idle.put(worker)
        msg = f"the worker process was killed {TRIES} times, for want of memory perhaps"
        raise WorkerDiedError(msg)

    def _replace(self, dead: ProcessPoolExecutor) -> ProcessPoolExecutor:
        dead.shutdown(wait=True)
        with self._changing:
            if self._killed:
                msg = "the pool of workers was ended"
                raise BrokenExecutor(msg)
            new = _start_worker()
            self._workers.symmetric_difference_update({dead, new})
            return new

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish what was submitted, then end the processes."""
        super().shutdown(wait=True, cancel_futures=cancel_futures)
        for worker in self._workers:
            worker.shutdown(wait=wait)

    def kill(self) -> None:
        """End the processes now; what was submitted is lost."""
        with self._changing:
            self._killed = True
            workers = list(self._workers)
        super().shutdown(wait=False, cancel_futures=True)
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
        :class:`~varpro_nn.errors.WorkerDiedError` itself.

    Raises
    ------
    TrainingError
        The executor broke down as a whole.
    """
    if executor is None:
        for key, arguments in tasks.items():
            yield key, function(*arguments)
        return
    futures = {executor.submit(function, *arguments): key for key, arguments in tasks.items()}
    try:
        for future in as_completed(futures):
            result: Any
            try:
                result = future.result()
            except WorkerDiedError as error:
                result = error
            except BrokenExecutor as error:
                msg = f"the executor broke down ({error}); what has been kept can be resumed."
                raise TrainingError(msg) from error
            except Exception as error:
                # Dask's, told by its name: nothing here may depend on Dask.
                if type(error).__name__ != "KilledWorker":
                    raise
                result = WorkerDiedError("the worker process was killed each time")
            yield futures[future], result
    finally:
        for future in futures:
            future.cancel()


def _start_worker() -> ProcessPoolExecutor:
    # It starts with its first task: this costs nothing yet.
    return ProcessPoolExecutor(1, initializer=_prepare_worker, initargs=(os.getpid(),))


def _prepare_worker(driver: int) -> None:
    # Ctrl-C reaches all processes of a terminal: the driver decides, workers go on till told.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(_ORPHAN_SECONDS)
        os._exit(1)  # a driver that was killed can tell nobody

    threading.Thread(target=watch, name="varpro_nn-orphan", daemon=True).start()
