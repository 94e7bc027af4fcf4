"""BLAS held to one thread: no bit of a result then depends on the number of cores.

A BLAS has one number of threads for the whole process (MKL, OpenBLAS on pthreads), or one for each
thread that calls it (OpenBLAS on OpenMP). The limit holds in both cases, whichever
thread sets it, and with any number of threads inside at a time. A library that is loaded without
the import of a module, by ``ctypes`` for example, is limited after the next import.
"""

import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import scipy.linalg  # noqa: F401  # loads its BLAS, so that it too is limited to one thread
from threadpoolctl import ThreadpoolController

Numbers = dict[Any, int]
"""Libraries with their numbers of threads."""


class _BlasLimit:
    """The limit of this process, and the open blocks of each thread.

    Notes
    -----
    A library has one number of threads for all its callers. The first block that finds another
    number than one stores it, and the last block to end restores it.
    """

    def __init__(self) -> None:
        # Reentrant: a signal may arrive in a thread that holds it, and its handler may fork.
        self._lock = threading.RLock()
        self._libraries: list[Any] = []
        self._found_among: tuple[str, ...] | None = None
        self._before: Numbers = {}
        self._blocks: Counter[int] = Counter()  # those that are open, by thread

    def enter(self) -> Numbers:
        """Open a block; return what it changed for this thread alone."""
        with self._lock:
            if not self._blocks:
                self._find_libraries()
            self._blocks[threading.get_ident()] += 1
            found = _set_to_one(self._libraries)
            own = {library: n for library, n in found.items() if _is_counted_by_thread(library)}
            for library, n in found.items() - own.items():
                self._before.setdefault(library, n)
            stuck = [library for library in self._libraries if _threads_of(library) != 1]
        for library in stuck:
            msg = (
                f"could not limit {library.filepath} to one thread, it uses {_threads_of(library)}:"
                " results can differ in the last bits and take longer. Set OMP_NUM_THREADS=1 "
                "before Python starts."
            )
            warnings.warn(msg, RuntimeWarning, stacklevel=4)
        return own

    def _find_libraries(self) -> None:
        """Look for libraries of BLAS, unless no module was imported since the last look.

        A look each time would be much of the time that the label of a single image takes.
        """
        modules = tuple(sys.modules)  # at once: another thread may import meanwhile
        if modules != self._found_among:
            self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
            self._found_among = modules

    def leave(self, thread: int, own: Numbers) -> None:
        """Close a block that ``thread`` opened."""
        with self._lock:
            self._blocks[thread] -= 1
            self._blocks += Counter()  # drops what is zero
            if thread == threading.get_ident():  # a generator may be closed elsewhere
                _restore(own)
            self._restore_if_last()

    def limit_thread(self) -> None:
        """Limit a thread that begins and ends within a block of another thread."""
        with self._lock:
            _set_to_one([each for each in self._libraries if _is_counted_by_thread(each)])

    def _restore_if_last(self) -> None:
        if not self._blocks:
            _restore(self._before)
            self._before = {}

    def before_fork(self) -> None:
        """Wait until no other thread is about to change the limit."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Let other threads change the limit again."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget the blocks of other threads: a child has only the thread that forked."""
        self._lock = threading.RLock()
        thread = threading.get_ident()
        self._blocks = Counter({thread: self._blocks[thread]}) + Counter()
        self._restore_if_last()


def _is_counted_by_thread(library: Any) -> bool:
    """Whether the library counts per calling thread."""
    return bool(library.internal_api == "openblas" and library.threading_layer == "openmp")


def _threads_of(library: Any) -> int:
    """Return the number of threads; a library that cannot say counts as limited."""
    n = library.num_threads
    return 1 if n is None else int(n)


def _set_to_one(libraries: list[Any]) -> Numbers:
    """Limit the libraries that use more than one thread; return the numbers before."""
    before = {each: n for each in libraries if (n := _threads_of(each)) != 1}
    for library in before:
        _let_any_thread_set(library)
        library.set_num_threads(1)  # while it holds, only this thread can change it
    return before


def _restore(before: Numbers) -> None:
    for library, n in before.items():
        _let_any_thread_set(library)
        library.set_num_threads(n)
        _let_any_thread_set(library)


def _let_any_thread_set(library: Any) -> None:
    """End the control of one thread over a library.

    threadpoolctl 3.8 lets the first thread that sets OpenBLAS control it. In all others setting it
    silently does nothing.
    """
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


_LIMIT = _BlasLimit()
os.register_at_fork(
    before=_LIMIT.before_fork,
    after_in_parent=_LIMIT.after_fork_in_parent,
    after_in_child=_LIMIT.after_fork_in_child,
)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread, in this thread and in those that :func:`limit_thread` begins.

    Blocks may be nested, and several threads may be inside at a time.

    Warns
    -----
    RuntimeWarning
        A BLAS keeps more than one thread.
    """
    thread, own = threading.get_ident(), _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave(thread, own)


def limit_thread() -> None:
    """Hold BLAS to one thread in this thread, for as long as it lives.

    For a thread that begins and ends within a block of :func:`single_threaded_blas`.
    """
    _LIMIT.limit_thread()
