"""Threads that share the work of this process, with one thread of BLAS in each of them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import scipy.linalg  # noqa: F401  # loads its BLAS, so that it too is limited to one thread
from joblib import cpu_count
from threadpoolctl import threadpool_limits

T = TypeVar("T")

IN_FLIGHT_BYTES = 2**29
"""Bytes that the results of :func:`in_order` may take together before they are used."""

_lock = threading.Lock()
_limits: list[threadpool_limits] = []
_n_users = 0


def effective_jobs(n_jobs: int) -> int:
    """Resolve a number of workers: ``-1`` stands for all cores that this process may use.

    Raises
    ------
    ValueError
        If ``n_jobs`` is neither -1 nor at least 1.
    """
    if n_jobs != -1 and n_jobs < 1:
        msg = f"n_jobs must be -1 (all cores) or at least 1, got {n_jobs}."
        raise ValueError(msg)
    return int(cpu_count()) if n_jobs == -1 else n_jobs


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread.

    The limit is one of the whole process. Several threads may be inside at a time: the first in
    sets it, the last out restores what was before.
    """
    global _n_users
    with _lock:
        if _n_users == 0:
            _limits.append(threadpool_limits(1, user_api="blas"))
        _n_users += 1
    try:
        yield
    finally:
        with _lock:
            _n_users -= 1
            if _n_users == 0:
                _limits.pop().restore_original_limits()


class Threads(ThreadPoolExecutor):
    """Threads that share tasks of this process.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        self.n_threads = n_threads


@contextmanager
def thread_pool(n_jobs: int) -> Iterator[Threads | None]:
    """Give threads that share tasks, with one thread of BLAS in each; None for a single one."""
    n_threads = effective_jobs(n_jobs)
    with single_threaded_blas():
        if n_threads == 1:
            yield None
        else:
            with Threads(n_threads) as threads:
                yield threads


def in_order(
    threads: Threads | None,
    function: Callable[[Any], T],
    items: Iterable[Any],
    n_bytes: int = 0,
) -> Iterator[T]:
    """Call ``function`` on each item, in threads if there are any; results in the order of items.

    So sums over the results do not depend on the number of threads.

    Parameters
    ----------
    threads : Threads or None
    function : callable
    items : iterable
    n_bytes : int
        Bytes of one result. No more results are made or wait at a time than there are threads, or
        than :data:`IN_FLIGHT_BYTES` hold; one at least.
    """
    if threads is None:
        yield from map(function, items)
        return
    most = max(1, min(threads.n_threads, IN_FLIGHT_BYTES // max(1, n_bytes)))
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            if len(waiting) >= most:
                yield waiting.popleft().result()
            waiting.append(threads.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
