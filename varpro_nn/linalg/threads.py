"""How many workers a number of jobs stands for, and one thread of BLAS in each of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from joblib import cpu_count
from threadpoolctl import threadpool_limits

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
