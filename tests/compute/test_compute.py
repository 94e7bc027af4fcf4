"""Where tasks run, and with how many threads."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed

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


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_daemonic_process_has_threads_in_place_of_processes():
    """It may have no children; scikit-learn and joblib go on without them as well."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        here, found = pool.apply(processes)
    assert here != os.getpid()
    assert found == {(here, 2)}


def test_a_thread_of_joblib_has_threads_in_place_of_processes():
    """joblib starts no processes there."""
    here = os.getpid()
    found = Parallel(n_jobs=2, backend="threading")(delayed(processes)() for _ in range(2))
    assert found == [(here, {(here, 2)})] * 2


def test_other_threads_and_the_first_have_processes():
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(can_start_processes).result()
    assert can_start_processes()


def test_threads_are_shared_out():
    with Compute(8) as compute:
        assert [compute.threads_for(n) for n in (0, 1, 2, 3, 9)] == [8, 8, 4, 2, 1]
