"""Threads that share the work of this process, with one thread of BLAS in each of them."""

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import joblib

from varpro_nn.linalg.blas_limit import limit_thread, single_threaded_blas

T = TypeVar("T")

IN_FLIGHT_BYTES = 2**29
"""Bytes that the results of :func:`in_order` may take together before they are used."""


def effective_jobs(n_jobs: int) -> int:
    """Resolve a number of workers as joblib does: -1 is all cores, -2 all but one, and so on.

    Returns
    -------
    int
        At least 1, for any number of cores.

    Raises
    ------
    TypeError, ValueError
        ``n_jobs`` is no integer, or it is 0.
    """
    try:
        number = operator.index(n_jobs)
    except TypeError:
        msg = f"n_jobs must be an integer, got {n_jobs!r}."
        raise TypeError(msg) from None
    if number == 0:
        msg = "n_jobs must be -1 (all cores), -2 (all but one) and so on, or at least 1, got 0."
        raise ValueError(msg)
    return number if number > 0 else max(1, int(joblib.cpu_count()) + 1 + number)


class Threads(ThreadPoolExecutor):
    """Threads that share tasks of this process.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads, initializer=limit_thread)
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
