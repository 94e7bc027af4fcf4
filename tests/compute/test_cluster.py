"""Sub-networks on a real cluster of Dask: several processes on this machine."""

import importlib
import importlib.util
import os
import signal
import socket
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import configure, load, run, whole_image_units
from varpro_nn.compute import cluster
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ClusterError
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks
from varpro_nn.units import WholeImageUnits

pytestmark = [
    # Imported by the tests, not by each process that collects them.
    pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs distributed"),
    # Dask closes its sockets when it sees fit, not when Python 3.11 wants it.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]

N = 5
SETTINGS = SubnetworkSettings(
    n_subnetworks=N, images_per_subnetwork=600, max_nfev=8, form="operator"
)


@pytest.fixture(scope="module")
def dataset(digits_file):
    return load(digits_file)


@pytest.fixture(scope="module")
def two_workers():
    """Address of a scheduler, as on another machine, and a client to look behind it."""
    distributed = importlib.import_module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as local,
        distributed.Client(local) as client,
    ):
        yield local.scheduler_address, client


def train(dataset, units=None, executor=None, **options):
    units = whole_image_units("bilinear", (8, 8), 6) if units is None else units
    training = TrainingSet.of(dataset)
    with Compute(1, executor=executor) as compute:
        plan = SubnetworkPlan(units, SETTINGS, seed=3)
        return train_subnetworks(plan, training, compute, **options)


class Store:
    """Calls a function with each sub-network that lands."""

    def __init__(self, write):
        self.write = write

    def read(self):
        return {}


def test_a_cluster_changes_no_bit(dataset, two_workers):
    config = configure("bilinear", n_units=24, n_subnetworks=4, images_per_subnetwork=200)
    here = run(config, dataset, n_jobs=1).network
    with cluster.executor("dask", two_workers[0]) as executor:
        there = run(config, dataset, n_jobs=1, executor=executor).network
    assert_array_equal(there.W, here.W)
    assert_array_equal(there.A, here.A)


def test_images_that_were_changed_after_loading_go_as_a_copy(dataset, two_workers):
    part = replace(dataset, train=dataset.train.take(slice(700)))
    config = configure("bilinear", n_units=12, n_subnetworks=2, images_per_subnetwork=200)
    here = run(config, part, n_jobs=1).network
    with cluster.executor("dask", two_workers[0]) as executor:
        there = run(config, part, n_jobs=1, executor=executor).network
    assert_array_equal(there.A, here.A)


def published():
    return importlib.import_module("varpro_nn.compute.published")


def test_workers_load_the_images_themselves(dataset, two_workers):
    """What goes to them is a reference, of a size that does not depend on the images."""
    _, client = two_workers
    client.run(lambda: published().training_set_of.cache_clear())
    with cluster.executor("dask", two_workers[0]) as executor:
        found = train(dataset, executor=executor)
    held = client.run(lambda: published().training_set_of.cache_info())
    assert sum(info.hits for info in held.values()) >= N - 2
    assert all(info.misses <= 1 for info in held.values())
    for a, b in zip(found, train(dataset), strict=True):
        assert_array_equal(a.W, b.W)


@pytest.mark.slow  # a worker that Dask starts anew takes seconds; test_pool.py has the logic
def test_killed_workers_lose_nothing(dataset, two_workers):
    address, client = two_workers
    kept = []

    def keep(subnetwork):
        kept.append(subnetwork.index)
        if len(kept) in (1, 3):
            for process in list(client.run(os.getpid).values())[:1]:
                os.kill(process, signal.SIGKILL)

    with cluster.executor("dask", address) as executor:
        found = train(dataset, executor=executor, store=Store(keep))
    assert sorted(kept) == list(range(N))
    for a, b in zip(found, train(dataset), strict=True):
        assert a.error == b.error == ""
        assert_array_equal(a.W, b.W)


@dataclass(frozen=True)
class Deadly(WholeImageUnits):
    """Kills the process that one of the starts comes to."""

    def features_and_derivative(self, W, inputs):
        if W[0, -1] == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().features_and_derivative(W, inputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
def test_a_subnetwork_that_keeps_killing_its_worker_is_recorded(dataset):
    """In processes that this package starts itself, where three tries are the limit."""
    units = Deadly("bilinear", (8, 8), 6)
    start = np.random.default_rng(0).standard_normal((N, 6, 17))
    sound = train(dataset, start=start)
    start[3, 0, -1] = 9
    with cluster.executor("dask", None, 2) as executor:
        found = train(dataset, units, start=start, executor=executor)
    assert found[3].W is None
    assert found[3].error.startswith("WorkerDiedError")
    for i in set(range(N)) - {3}:
        assert_array_equal(found[i].W, sound[i].W)


def test_no_scheduler_no_run(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(ClusterError, match=r"--scheduler tcp://127.0.0.1:9: no Dask scheduler"),
        cluster.executor("dask", "tcp://127.0.0.1:9"),
    ):
        pass


def test_a_scheduler_that_is_stopped_is_a_fault(monkeypatch):
    """The system accepts connections for it, and nobody speaks."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match=f"{address}: no Dask scheduler there .no answer"),
            cluster.executor("dask", address),
        ):
            pass


def test_a_scheduler_that_ceases_to_answer_is_reported_each_time(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.001)
    answers = iter([True, False, False, True, False])
    asked = threading.Event()

    def sync(*_, callback_timeout):
        if (answer := next(answers, None)) is None:
            asked.set()
        elif not answer:
            raise TimeoutError

    client = SimpleNamespace(sync=sync, scheduler=SimpleNamespace(identity=None))
    with cluster._watched(client, "tcp://there:1"):
        assert asked.wait(10)
    assert [record.getMessage()[:40] for record in caplog.records] == [
        "--scheduler tcp://there:1: no answer wit"
    ] * 2


def test_a_scheduler_without_workers_is_a_fault(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    distributed = importlib.import_module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as empty,
        pytest.raises(ClusterError, match="no worker within"),
        cluster.executor("dask", empty.scheduler_address),
    ):
        pass


def test_a_daemonic_process_cannot_start_a_cluster(monkeypatch):
    monkeypatch.setattr(cluster, "current_process", lambda: SimpleNamespace(daemon=True))
    with (
        pytest.raises(ClusterError, match=r"daemonic process, .* cannot start workers"),
        cluster.executor("dask", None, 2),
    ):
        pass


def test_joblib_needs_no_cluster():
    with cluster.executor("joblib") as executor:
        assert executor is None
