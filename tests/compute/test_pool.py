"""Tasks in processes: what a dying worker takes along, and what not."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager

import pytest
from pool_tasks import Unreadable, array_of, fail, fail_oddly, nap, square

from varpro_nn.compute import pool as module
from varpro_nn.compute.pool import ProcessPool, run_here, run_on_executor
from varpro_nn.errors import TrainingError, WorkerDiedError


def tasks(folder, n=6, **n_kills):
    return {i: (i, folder, n_kills.get(f"task_{i}", 0)) for i in range(n)}


def runs(folder):
    return {
        int(path.stem): len(path.read_text(encoding="utf-8").splitlines())
        for path in folder.glob("*.runs")
    }


@contextmanager
def pool_of(n_workers):
    with closing(ProcessPool(n_workers)) as pool:
        yield pool


def run_on_processes(function, tasks, n_workers):
    with pool_of(n_workers) as pool, closing(pool.run(function, tasks)) as results:
        yield from results


def test_every_task_has_its_result(tmp_path):
    expected = {i: i * i for i in range(6)}
    assert dict(run_here(square, tasks(tmp_path))) == expected
    assert dict(run_on_processes(square, tasks(tmp_path), 2)) == expected
    with ThreadPoolExecutor(2) as mine:
        assert dict(run_on_executor(square, tasks(tmp_path), mine)) == expected
        assert mine.submit(abs, -1).result() == 1  # left open
    assert runs(tmp_path) == dict.fromkeys(range(6), 3)


def test_workers_that_die_take_no_result_along_and_who_keeps_killing_them_is_given_up(
    tmp_path, monkeypatch
):
    """Task 4 dies once by itself, and perhaps again beside task 1; it has its result all the same.

    Each death starts two workers, so all is looked at in one run.
    """
    monkeypatch.setattr(module, "TRIES", 2)
    found = dict(run_on_processes(square, tasks(tmp_path, 6, task_1=99, task_4=1), 2))
    assert isinstance(found[1], WorkerDiedError)
    assert "killed 2 times" in str(found.pop(1))
    assert found == {i: i * i for i in (0, 2, 3, 4, 5)}
    # The last time alone: six suspects are halved twice on the way, fewer less often.
    assert 2 <= runs(tmp_path)[1] <= 4
    assert runs(tmp_path)[4] >= 2
    # and a pool is as good as before
    assert dict(run_on_processes(square, {7: (7, tmp_path)}, 2)) == {7: 49}


@pytest.mark.slow  # eight pools
def test_no_innocent_is_given_up_for_a_guilty_neighbour(tmp_path, monkeypatch):
    """However often a neighbour breaks the pool: who is given up died alone."""
    monkeypatch.setattr(module, "TRIES", 2)
    n = 2
    deadly = {f"task_{i}": 99 for i in range(n)}
    found = dict(run_on_processes(square, tasks(tmp_path, n + 1, **deadly), n + 1))
    assert found.pop(n) == n**2
    assert all(isinstance(result, WorkerDiedError) for result in found.values())
    assert sorted(found) == list(range(n))


def test_a_mistake_is_raised():
    with pytest.raises(TypeError, match="a mistake in task"):
        list(run_on_processes(fail, {0: (0,), 1: (1,)}, 2))


def test_an_exception_that_cannot_travel_is_told_in_words():
    with pytest.raises(RuntimeError, match=r"TwoArguments: 3 and more"):
        list(run_on_processes(fail_oddly, {0: (3,)}, 2))


def test_a_task_that_cannot_be_read_is_no_death():
    with pytest.raises(TrainingError, match=r"broke down: .*un-serialize"):
        list(run_on_processes(str, {0: (Unreadable(),)}, 2))


@pytest.mark.own_workers
def test_workers_end_with_their_pool():
    """The system then counts them as children of this process, and their memory is free."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    pool = ProcessPool(2)
    processes = {process for _, process in pool.run(os.getpid, {0: (), 1: ()})}
    assert all(map(_is_running, processes))
    pool.close()
    assert not any(map(_is_running, processes))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before
    pool.close()  # a second time changes nothing


@pytest.mark.slow  # two pools
@pytest.mark.own_workers
def test_threads_take_turns(tmp_path):
    def work(number):
        return dict(run_on_processes(square, {number: (number, tmp_path)}, 2))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(work, (2, 3))) == [{2: 4}, {3: 9}]


def test_what_was_not_closed_is_an_error_and_no_deadlock():
    with pool_of(2) as pool:
        unclosed = pool.run(os.getpid, {0: (), 1: ()})
        next(unclosed)
        with pytest.raises(RuntimeError, match="in use by an earlier training"):
            next(pool.run(os.getpid, {0: ()}))
        assert len(list(unclosed)) == 1  # to its end, so that the workers live on


def test_results_are_not_held_on_to():
    """They are as large as a Gram matrix."""
    with ThreadPoolExecutor(1) as executor:
        alive = []
        for _, result in run_on_executor(array_of, {i: (i,) for i in range(8)}, executor):
            alive.append(weakref.ref(result))
            del result
            assert sum(ref() is not None for ref in alive[:-1]) == 0


@pytest.mark.slow  # test_train.py tests Ctrl-C among the fast tests
def test_an_early_end_ends_the_tasks_under_way():
    """As Ctrl-C does, or a fault of the caller."""
    start = time.monotonic()
    results = run_on_processes(nap, {i: (i,) for i in range(4)}, 2)
    assert next(results) == (0, 0)
    results.close()
    assert dict(run_on_processes(nap, {0: (0,)}, 2)) == {0: 0}
    assert time.monotonic() - start < 50


class KilledWorker(Exception):  # noqa: N818
    """Named like that of Dask."""


class Failing(ThreadPoolExecutor):
    """Some tasks, by default the second, end with an exception of the executor."""

    def __init__(self, error, which=(2,)):
        super().__init__(1)
        self.error, self.which, self.count = error, which, 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        if self.count not in self.which:
            return super().submit(fn, *args, **kwargs)

        def give_up():
            raise self.error

        return super().submit(give_up)


def test_a_task_that_dask_gives_up_is_a_result(tmp_path):
    with Failing(KilledWorker(), which=(2, 4)) as executor:
        found = dict(run_on_executor(square, tasks(tmp_path, 3), executor))
    assert type(found.pop(1)) is WorkerDiedError
    assert found == {0: 0, 2: 4}
    assert executor.count == 4


def test_a_task_that_dask_blamed_for_another_is_run_alone_at_the_end(tmp_path):
    """Dask blames the death of a worker on all tasks that it held."""
    with Failing(KilledWorker(), which=(1, 2)) as executor:
        found = list(run_on_executor(square, tasks(tmp_path, 3), executor))
    assert found == [(2, 4), (0, 0), (1, 1)]
    with Failing(KilledWorker(), which=(1, 2, 4)) as executor:
        found = dict(run_on_executor(square, tasks(tmp_path, 3), executor))
    assert type(found.pop(0)) is WorkerDiedError
    assert found == {1: 1, 2: 4}


@pytest.mark.parametrize("error", [BrokenProcessPool("gone"), CancelledError("gone")], ids=repr)
def test_an_executor_that_breaks_down_is_a_fault_of_the_run(error, tmp_path):
    with (
        Failing(error) as executor,
        pytest.raises(
            TrainingError,
            match=r"the executor broke down \(gone\)\. In a script, .* under if __name__ == ",
        ),
    ):
        list(run_on_executor(square, tasks(tmp_path, 3), executor))


def test_a_real_pool_that_breaks_down_is_a_fault_of_the_run(tmp_path):
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(TrainingError, match="the executor broke down"),
    ):
        list(run_on_executor(square, tasks(tmp_path, 3, task_1=99), executor))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_end_with_their_driver(tmp_path):
    """A driver that is killed can tell nobody; its workers must not stay for ever.

    Ctrl-C goes to them too. They hold it back from their first instruction, since Python would
    print where it met them.
    """
    script = textwrap.dedent("""
        import os, signal, time
        from varpro_nn.compute.pool import ProcessPool

        def state():
            return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

        pool = ProcessPool(2)
        for key, (process, holds_interrupts_back) in pool.run(state, {0: (), 1: ()}):
            assert holds_interrupts_back
            print(process, flush=True)
        results = pool.run(time.sleep, {0: (600,), 1: (0,)})
        assert next(results) == (1, None)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    driver = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert driver.returncode == -signal.SIGKILL
    workers = {int(line) for line in driver.stdout.split()}
    assert workers
    deadline = time.monotonic() + 20
    while any(map(_is_running, workers)):
        assert time.monotonic() < deadline, f"still running: {workers}"
        time.sleep(0.2)


def _is_running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
