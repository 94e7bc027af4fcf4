"""One thread of BLAS: whichever thread asks, in every library, and as before at the end."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from varpro_nn.linalg import blas_limit
from varpro_nn.linalg.blas_limit import single_threaded_blas
from varpro_nn.linalg.threads import in_order, thread_pool

SCRIPT = """
from varpro_nn.linalg.threads import thread_pool
with thread_pool(1):
    import scipy.linalg, scipy.optimize, scipy.sparse.linalg, scipy.special
    from threadpoolctl import threadpool_info
    print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
"""


def n_threads(_=None):
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def n_threads_inside():
    with single_threaded_blas():
        return n_threads()


@pytest.fixture
def two():
    """Let BLAS use two threads; the first thread is then the one that threadpoolctl listens to."""
    with threadpool_limits(2, user_api="blas"):
        assert n_threads() == {2}
        yield


def test_what_is_imported_later_has_one_thread_too():
    """NumPy and SciPy bring a BLAS each; a limit does not hold for one that is loaded after it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(json.loads(done.stdout)) == {1}


def test_libraries_are_looked_for_after_an_import_alone(monkeypatch):
    looks = []
    real = blas_limit.ThreadpoolController
    monkeypatch.setattr(blas_limit, "ThreadpoolController", lambda: looks.append(1) or real())
    monkeypatch.setattr(blas_limit._LIMIT, "_found_among", None)
    changes = [
        ([], 1), ([], 1), (["one"], 2), ([], 2),
        (["-one", "another"], 3),  # as many modules
        (["-another", "one", "another"], 4),  # the same last one
    ]  # fmt: skip
    for names, expected in changes:
        for name in names:
            if name.startswith("-"):
                monkeypatch.delitem(sys.modules, name[1:])
            else:
                monkeypatch.setitem(sys.modules, name, sys)
        n_threads_inside()
        assert len(looks) == expected


def test_the_limit_holds_in_a_second_thread(two):
    with ThreadPoolExecutor(1) as executor:
        for _ in range(2):
            assert executor.submit(n_threads_inside).result() == {1}
            assert n_threads() == {2}
            assert n_threads_inside() == {1}
            assert n_threads() == {2}


def test_the_last_of_several_threads_restores_the_limit(two):
    """Whoever came first has left by then, and lives on."""
    both_inside, first_outside = threading.Barrier(2, timeout=10), threading.Event()

    def first():
        with single_threaded_blas():
            both_inside.wait()
        first_outside.set()

    def second():
        with single_threaded_blas():
            both_inside.wait()
            assert first_outside.wait(10)
            return n_threads()

    with ThreadPoolExecutor(2) as executor:
        others = [executor.submit(work) for work in (first, second)]
        assert others[1].result() == {1}
        assert n_threads() == {2}
    with threadpool_limits(3, user_api="blas"):  # nobody is left in control
        assert n_threads() == {3}


class PerThread:
    """A BLAS with one number of threads for each thread that calls it, as OpenBLAS on OpenMP."""

    internal_api, threading_layer, filepath = "openblas", "openmp", "libopenblas.so"

    def __init__(self):
        self._state = threading.local()

    @property
    def num_threads(self):
        return getattr(self._state, "n", 4)

    def set_num_threads(self, n):
        self._state.n = n


def load_only(library, monkeypatch):
    chosen = SimpleNamespace(lib_controllers=[library])
    controller = SimpleNamespace(select=lambda user_api: chosen)
    monkeypatch.setattr(blas_limit, "ThreadpoolController", lambda: controller)
    monkeypatch.setattr(blas_limit._LIMIT, "_found_among", None)  # look again
    monkeypatch.setattr(blas_limit._LIMIT, "_libraries", [])


def test_a_limit_for_each_thread_is_set_in_each(monkeypatch):
    library = PerThread()
    load_only(library, monkeypatch)

    def read(_=None):
        return library.num_threads

    def read_inside():
        with single_threaded_blas():
            return library.num_threads

    with thread_pool(2) as threads, ThreadPoolExecutor(1) as other:
        assert library.num_threads == 1
        assert list(in_order(threads, read, range(4))) == [1, 1, 1, 1]
        assert other.submit(read).result() == 4
        assert other.submit(read_inside).result() == 1
        assert other.submit(read).result() == 4
    assert library.num_threads == 4


def test_a_library_that_keeps_its_threads_is_named(monkeypatch):
    library = PerThread()
    library.set_num_threads = lambda n: None
    load_only(library, monkeypatch)
    with (
        pytest.warns(RuntimeWarning, match=r"could not limit libopenblas\.so to one .* uses 4"),
        single_threaded_blas(),
    ):
        pass


def numbers_in_child():
    return [sorted(n_threads()), sorted(n_threads_inside()), sorted(n_threads())]


def test_a_child_that_is_forked_meanwhile_neither_hangs_nor_keeps_the_limit(two, in_child):
    done = threading.Event()

    def work():
        while not done.is_set():
            with single_threaded_blas():
                pass

    with ThreadPoolExecutor(1) as executor:
        busy = executor.submit(work)
        try:
            found = [in_child(numbers_in_child) for _ in range(5)]
        finally:
            done.set()
        busy.result()
    assert found == [[[2], [1], [2]]] * 5
    assert n_threads() == {2}


def test_a_child_that_is_forked_inside_a_block_is_inside(two, in_child):
    with single_threaded_blas():
        assert in_child(numbers_in_child) == [[1], [1], [1]]
    assert n_threads() == {2}
