"""Where tasks run, and with how many threads."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import Parallel, delayed

from varpro_nn.compute import pool
from varpro_nn.compute.compute import Compute
from varpro_nn.compute.pool import can_start_processes
from varpro_nn.data.training_set import TrainingSet

TRAINING = TrainingSet(np.zeros((4, 1, 1), dtype=np.float32), np.array([0, 1, 0, 1]), 2)


def process_of(training, n_threads):
    return os.getpid(), n_threads


def processes(n_jobs=2, n_tasks=4):
    """Say which processes do the tasks, with how many threads, beside this one."""
    with Compute(n_jobs) as compute:
        tasks = [(compute.threads_for(n_tasks),)] * n_tasks
        return os.getpid(), set(compute.map_in_order(process_of, TRAINING, tasks))


def test_a_daemonic_process_has_threads_in_place_of_processes(in_child):
    """It may have no children; scikit-learn and joblib go on without them as well."""

    def in_daemon():
        with multiprocessing.get_context("fork").Pool(1) as processors:
            here, found = processors.apply(processes)
        return found == {(here, 2)}

    assert in_child(in_daemon)


def test_a_thread_of_joblib_has_threads_in_place_of_processes():
    """joblib starts no processes there."""
    here = os.getpid()
    found = Parallel(n_jobs=2, backend="threading")(delayed(processes)() for _ in range(2))
    assert found == [(here, {(here, 2)})] * 2


def test_other_threads_and_the_first_have_processes():
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(can_start_processes).result()
    assert can_start_processes()


def test_a_child_that_is_forked_while_the_workers_are_in_use_has_threads(in_child):
    """They answer the parent alone, and the thread that would end their use is not in the child."""
    begun, end = threading.Event(), threading.Event()

    def use():
        with pool._TURN:
            begun.set()
            end.wait(10)

    def in_threads():
        here, found = processes()
        return found == {(here, 2)}

    with ThreadPoolExecutor(1) as executor:
        executor.submit(use)
        assert begun.wait(10)
        assert in_child(in_threads)
        end.set()
    assert in_child(can_start_processes)
    assert can_start_processes()


def test_a_silent_bar_starts_no_thread():
    before = set(threading.enumerate())
    with Compute() as compute, compute.bar("title", total=2) as bar:
        bar.update()
        bar.set_postfix(cost="1")
    assert set(threading.enumerate()) <= before


def test_threads_are_shared_out():
    with Compute(8) as compute:
        assert [compute.threads_for(n) for n in (0, 1, 2, 3, 9)] == [8, 8, 4, 2, 1]
