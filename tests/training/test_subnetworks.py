from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from in_memory import MemoryStore, train
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_info, threadpool_limits

from varpro_nn import load, whole_image_units
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import NonFiniteError, TrainingError
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.units import WholeImageUnits

UNITS = whole_image_units("bilinear", (8, 8), 4)
K = 10


def plan(n_subnetworks=4, images=120, max_nfev=3, **options):
    return SubnetworkSettings(
        n_subnetworks=n_subnetworks, images_per_subnetwork=images, max_nfev=max_nfev, **options
    )


@pytest.fixture(scope="module")
def digits():
    return TrainingSet.of(load("digits"), 300)


@pytest.fixture(scope="module")
def trained(digits):
    return train(UNITS, digits, plan(), seed=5)


def assert_same_weights(one, other):
    assert [s.index for s in one] == [s.index for s in other]
    for a, b in zip(one, other, strict=True):
        assert_array_equal(a.W, b.W)
        assert a.report.cost == b.report.cost


# --- what comes back ---------------------------------------------------------------------


def test_every_subnetwork_comes_back_trained_in_order(trained):
    assert [s.index for s in trained] == [0, 1, 2, 3]
    for subnetwork in trained:
        assert subnetwork.W.shape == (4, 17)
        assert subnetwork.error == ""
        costs = [record.cost for record in subnetwork.report.history]
        assert len(costs) <= 3
        assert subnetwork.report.cost == min(costs) < costs[0]
    assert len({subnetwork.report.cost for subnetwork in trained}) == 4


def test_processes_change_no_bit(digits, trained):
    assert_same_weights(train(UNITS, digits, plan(), seed=5, n_jobs=2), trained)


def test_large_images_shared_in_memory_change_no_bit():
    """Arrays of more than 1 MB reach the processes as read-only maps of files."""
    images = np.random.default_rng(0).random((400, 20, 20))
    labels = np.arange(400) % K
    assert images.nbytes > 2**20
    units = whole_image_units("bilinear", (20, 20), 3)
    runs = [train(units, TrainingSet(images, labels, K), plan(3), seed=1, n_jobs=n) for n in (1, 2)]
    assert_same_weights(*runs)


def test_a_subnetwork_does_not_depend_on_how_many_there_are(digits, trained):
    more = train(UNITS, digits, plan(6), seed=5)
    assert_same_weights(more[:4], trained)


def test_seeds(digits, trained):
    other = train(UNITS, digits, plan(), seed=6)
    assert not any(np.array_equal(a.W, b.W) for a in other for b in trained)
    assert not np.array_equal(trained[0].W, trained[1].W)
    sequence = train(UNITS, digits, plan(), seed=np.random.SeedSequence(5))
    assert_same_weights(sequence, trained)


def test_no_evaluation_leaves_the_units_where_training_starts(digits):
    drawn = train(UNITS, digits, plan(max_nfev=0), seed=5)
    assert all(s.report is None and s.error == "" for s in drawn)
    start = train(UNITS, digits, plan(max_nfev=1), seed=5)
    for a, b in zip(drawn, start, strict=True):
        assert b.report.n_evaluations == 1
        assert_array_equal(a.W, b.W)


def test_given_starts_are_started_from(digits):
    start = np.random.default_rng(0).standard_normal((4, 4, 17))
    given = train(UNITS, digits, plan(max_nfev=0), start=start)
    assert_array_equal(np.stack([s.W for s in given]), start)
    once = train(UNITS, digits, plan(max_nfev=1), start=start)
    assert_array_equal(np.stack([s.W for s in once]), start)


def test_fewer_images_than_a_subnetwork_wants_are_all_taken(digits):
    """All have the same images then, so from the same start they end at the same weights."""
    start = np.repeat(np.random.default_rng(0).standard_normal((1, 4, 17)), 2, axis=0)
    all_of_them = train(UNITS, digits, plan(2, 300), start=start)
    too_many = train(UNITS, digits, plan(2, 10_000), start=start)
    assert_same_weights(too_many, all_of_them)
    assert_array_equal(all_of_them[0].W, all_of_them[1].W)
    some = train(UNITS, digits, plan(2, 299), start=start)
    assert not np.array_equal(some[0].W, some[1].W)


def test_classes_missing_in_a_subset_are_counted(digits):
    labels = digits.targets
    few = (labels < 3) | (np.arange(300) == 7)  # 7: a seven, drawn for few subsets
    assert labels[7] == 7
    found = train(UNITS, digits.take(few), plan(8, 40), seed=0)
    assert {s.n_missing_classes for s in found} == {6, 7}
    assert all(np.isfinite(s.W).all() for s in found)


def test_one_class_in_a_subset_is_no_fault(digits):
    (subnetwork,) = train(UNITS, digits, plan(1, 1), seed=0)
    assert subnetwork.n_missing_classes == 9
    assert subnetwork.error == ""
    assert np.isfinite(subnetwork.W).all()


def test_arguments_are_not_changed(digits):
    images, labels = digits.images.copy(), digits.targets.copy()
    start = np.random.default_rng(0).standard_normal((2, 4, 17))
    before = images.copy(), labels.copy(), start.copy()
    train(UNITS, TrainingSet(images, labels, K), plan(2), start=start)
    for array, old in zip((images, labels, start), before, strict=True):
        assert_array_equal(array, old)


# --- failures ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_subnetwork_that_fails_is_recorded_and_left_out(n_jobs, digits):
    start = np.random.default_rng(0).standard_normal((4, 4, 17))
    sound = train(UNITS, digits, plan(), start=start)
    start[2, 1, 3] = np.nan
    found = train(UNITS, digits, plan(), start=start, n_jobs=n_jobs)
    assert [s.W is None for s in found] == [False, False, True, False]
    assert found[2].error.startswith(NonFiniteError.__name__)
    assert found[2].report is None
    assert_same_weights([found[i] for i in (0, 1, 3)], [sound[i] for i in (0, 1, 3)])


def test_if_all_fail_there_is_no_network(digits):
    start = np.full((3, 4, 17), np.nan)
    with pytest.raises(TrainingError, match="all 3 sub-networks failed; the first: NonFiniteError"):
        train(UNITS, digits, plan(3), start=start)


@dataclass(frozen=True)
class Steep(WholeImageUnits):
    """Finite features whose derivative is NaN in sub-networks with a marked start."""

    def features_and_derivative(self, W, inputs):
        Phi, dPhi = super().features_and_derivative(W, inputs)
        return Phi, dPhi * (np.nan if W[0, -1] == 9 else 1)


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"form": "operator"},
        {"form": "reduced"},
        {"form": "array"},
        {"solver": "exact"},
        {"solver": "lm"},
        {"solver": "l-bfgs-b"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_a_derivative_that_is_not_finite_is_not_fatal(options, digits):
    units = Steep("bilinear", (8, 8), 4)
    start = np.random.default_rng(0).standard_normal((2, 4, 17))
    start[1, 0, -1] = 9
    found = train(units, digits, plan(2, **options), start=start)
    assert found[0].error == ""
    # left out with a reason, or left where it was
    assert found[1].error if found[1].W is None else np.isfinite(found[1].W).all()


@dataclass(frozen=True)
class Singular(WholeImageUnits):
    def init(self, inputs, rng):
        if rng.random() < 0.5:
            msg = "SVD did not converge"
            raise np.linalg.LinAlgError(msg)
        return super().init(inputs, rng)


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
def test_an_algorithm_that_does_not_converge_is_not_fatal(digits):
    found = train(Singular("bilinear", (8, 8), 4), digits, plan(8), seed=0)
    failed = [s for s in found if s.W is None]
    assert 0 < len(failed) < 8
    assert {s.error for s in failed} == {"LinAlgError: SVD did not converge"}


@dataclass(frozen=True)
class Mistaken(WholeImageUnits):
    def init(self, inputs, rng):
        msg = "a mistake in the program"
        raise TypeError(msg)


def test_a_mistake_in_the_program_is_not_hidden(digits):
    """Nor is one in a worker process: test_pool.py."""
    with pytest.raises(TypeError, match="a mistake in the program"):
        train(Mistaken("bilinear", (8, 8), 4), digits, plan(), seed=0)


class KilledWorker(Exception):  # noqa: N818
    """Named like that of Dask, which stands for a death; test_pool.py has those of processes."""


@dataclass(frozen=True)
class SometimesKilled(WholeImageUnits):
    def features_and_derivative(self, W, inputs):
        if W[0, -1] == 9:
            raise KilledWorker
        return super().features_and_derivative(W, inputs)


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
def test_a_subnetwork_that_keeps_killing_its_worker_is_recorded_and_not_kept(digits):
    """The others go on; what failed for want of memory can be tried again."""
    start = np.random.default_rng(0).standard_normal((4, 4, 17))
    sound = train(UNITS, digits, plan(), start=start)
    start[2, 0, -1] = 9
    store = MemoryStore()
    with ThreadPoolExecutor(2) as executor:
        found = train(
            SometimesKilled("bilinear", (8, 8), 4), digits, plan(),
            start=start, executor=executor, store=store,
        )  # fmt: skip
    assert found[2].W is None
    assert "killed 3 times" in found[2].error
    assert sorted(store) == [0, 1, 3]
    assert_same_weights([found[i] for i in (0, 1, 3)], [sound[i] for i in (0, 1, 3)])


def test_if_all_workers_are_killed_it_is_a_fault_of_the_run(digits):
    start = np.full((1, 4, 17), 9.0)
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(TrainingError, match="the first: WorkerDiedError: the worker process"),
    ):
        train(
            SometimesKilled("bilinear", (8, 8), 4), digits, plan(1), start=start, executor=executor
        )


# --- threads, progress, arguments --------------------------------------------------------


@dataclass(frozen=True)
class Counting(WholeImageUnits):
    """Its first weight is the number of threads that BLAS had."""

    def init(self, inputs, rng):
        W = super().init(inputs, rng)
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        W[0, 0] = max(blas)
        return W


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_blas_has_one_thread_inside_a_job(n_jobs, digits):
    with threadpool_limits(2, user_api="blas"):
        found = train(Counting("bilinear", (8, 8), 4), digits, plan(max_nfev=0), n_jobs=n_jobs)
    assert [s.W[0, 0] for s in found] == [1] * 4


def test_the_bar_is_silent_off_a_terminal(digits, capfd):
    train(UNITS, digits, plan(), progress=True)
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_best_and_median_cost_on_a_terminal(digits, trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    train(UNITS, digits, plan(), seed=5)
    assert capsys.readouterr() == ("", "")
    train(UNITS, digits, plan(), seed=5, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    costs = [s.report.cost for s in trained]
    assert "4/4" in err
    assert f"best_cost={min(costs):.4g}" in err
    assert f"median_cost={np.median(costs):.4g}" in err
