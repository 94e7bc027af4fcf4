"""The functional in parts: the same function, and the same bits for any workers."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import configure, load, patch_units, run, whole_image_units
from varpro_nn.compute.pool import WorkerPool
from varpro_nn.compute.published import stored
from varpro_nn.data import ImageSet
from varpro_nn.errors import WorkerDiedError
from varpro_nn.training.partitioned import PartitionedFunctional
from varpro_nn.training.subnetwork import SubnetworkSettings
from varpro_nn.training.subnetworks import train_subnetworks
from varpro_nn.units import WholeImageUnits, learn_whitening
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional

K = 10


@pytest.fixture(scope="module")
def part():
    train = load("digits").train
    return ImageSet(train.images[:403], train.labels[:403])  # parts of two sizes


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(3) as executor:
        yield executor


@pytest.fixture(params=["whole image", "patches", "many cells"])
def units(request, part):
    if request.param == "whole image":
        return whole_image_units("bilinear", (8, 8), 4)
    grid = 2 if request.param == "patches" else 4
    made = patch_units("dense", (8, 8), 3, window=3, grid=grid, contrast=0.01)
    return learn_whitening(made, part.images, np.random.default_rng(0), epsilon=0.1)


@pytest.fixture(params=[False, True], ids=["alone", "beside others"])
def fixed(request, units, part):
    return units.init(part.images, np.random.default_rng(7))[:2] if request.param else None


@pytest.fixture
def w(units, part):
    return units.init(part.images, np.random.default_rng(1)).ravel()


PENALTIES = {"ridge": 0.3, "weight_decay": 0.01, "dtype": np.float64}


@pytest.mark.parametrize("n_parts", [1, 4, 1000])
def test_it_is_the_functional_of_all_images(n_parts, units, fixed, w, part):
    columns = None if fixed is None else units.features(fixed, part.images)
    tau = np.eye(K)[part.labels]
    whole = VarProFunctional(units, part.images, tau, fixed=columns, **PENALTIES)
    parts = PartitionedFunctional(units, part, K, n_parts=n_parts, fixed=fixed, **PENALTIES)
    expected, found = whole.evaluate(w), parts.evaluate(w)
    assert_allclose(found.A, expected.A, rtol=1e-7, atol=1e-9)
    for name in ("cost", "loo_mse", "loo_error", "rank"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    assert_allclose(parts.gradient(w), whole.gradient(w), rtol=1e-7, atol=1e-10)
    for kind in ("kaufman", "full"):
        (H, g), (G, f) = (each.normal_equations(w, kind) for each in (whole, parts))
        assert_allclose(G, H, rtol=1e-8, atol=1e-9 * np.abs(H).max())
        assert_allclose(f, g, rtol=1e-7, atol=1e-10)
    assert parts.n_weights == whole.n_weights


def test_workers_change_no_bit(units, fixed, w, part, pool):
    options = {"n_parts": 5, "fixed": fixed, "ridge": 0.3, "weight_decay": 0.01}
    with stored(part) as data:
        here = PartitionedFunctional(units, part, K, **options)
        there = PartitionedFunctional(units, part, K, executor=pool, data=data, **options)
        for functional in (here, there):
            assert functional.dtype == np.float32
        one, other = fit(here, w, max_nfev=4), fit(there, w, max_nfev=4)
    assert_array_equal(one.w, other.w)
    assert [record.cost for record in one.history] == [record.cost for record in other.history]
    assert one.cost < one.history[0].cost


@dataclass(frozen=True)
class Deadly(WholeImageUnits):
    def features(self, W, inputs):
        os.kill(os.getpid(), signal.SIGKILL)


def test_parts_that_kill_their_workers_end_the_fit(part, pool):
    with stored(part) as data:
        functional = PartitionedFunctional(
            Deadly("bilinear", (8, 8), 4), part, K, executor=pool, data=data
        )
        with pytest.raises(WorkerDiedError, match=r"part \d of 8 of some sums cannot be had"):
            functional.cost(np.zeros(functional.n_weights))


def test_a_subnetwork_that_kills_its_workers_in_parts_is_recorded(part):
    units, kept = Deadly("bilinear", (8, 8), 4), []
    settings = SubnetworkSettings(2, 300, 1.0, 0.1, n_parts=3)
    found = train_subnetworks(
        units, part.images, part.labels, K, settings, members=[0, 1],
        start=np.zeros((2, 4, 17)), n_jobs=2, keep=kept.append,
    )  # fmt: skip
    assert [s.error.split(":")[0] for s in found] == ["WorkerDiedError"] * 2
    assert kept == []


def test_fixed_columns_that_are_not_finite_fail_that_subnetwork_alone(part):
    units = whole_image_units("tensor", (8, 8), 4, activation="softplus")
    fixed = np.full((2, units.n_weights), 1e30)
    for n_parts in (1, 3):
        settings = SubnetworkSettings(1, 300, 1.0, 0.1, n_parts=n_parts)
        with np.errstate(all="ignore"):
            (found,) = train_subnetworks(
                units, part.images, part.labels, K, settings, members=[0], fixed={0: fixed}
            )
        assert found.error.startswith("NonFiniteError")


class Counting(ThreadPoolExecutor):
    """Remembers what it was given, and where the images were to be found."""

    def __init__(self):
        super().__init__(2)
        self.parts = []

    def submit(self, fn, /, *args, **kwargs):
        self.parts += [arg for arg in args if type(arg).__name__ == "_Part"]
        return super().submit(fn, *args, **kwargs)


def test_parts_go_to_the_workers_and_their_images_to_the_run_folder(tmp_path):
    config = configure(
        "bilinear", n_units=6, n_subnetworks=1, images_per_subnetwork=500, max_nfev=2, n_parts=3
    )
    with Counting() as executor:
        run(config, load("digits"), n_jobs=1, executor=executor, shard_folder=tmp_path / "shards")
    assert len(executor.parts) % 3 == 0
    assert len(executor.parts) >= 9  # rows, left-out rows, normal equations
    for part in executor.parts:
        assert str(part.data.folder).startswith(str(tmp_path / "shards"))


@pytest.mark.parametrize("scheme", ["independent", "stages"])
def test_a_run_in_parts(scheme, tmp_path):
    digits = load("digits")
    more = {"shift": 1} if scheme == "stages" else {}
    config = configure(
        "bilinear", n_units=12, n_subnetworks=2, images_per_subnetwork=500, max_nfev=5,
        scheme=scheme, n_stages=2 if scheme == "stages" else 1, n_parts=3, **more,
    )  # fmt: skip
    one = run(config, digits, n_jobs=1)
    two = run(config, digits, n_jobs=2, shard_folder=tmp_path / "shards")
    assert_array_equal(one.network.W, two.network.W)
    assert_array_equal(one.network.A, two.network.A)
    assert len(list((tmp_path / "shards").glob("*.npz"))) == 2
    assert not list((tmp_path / "shards").glob(".*images*"))
    # In one part each: the same problem, so about the same weights, but not to the last bit.
    whole = run(replace(config, n_parts=1), digits, n_jobs=1)
    assert not np.array_equal(whole.network.W, one.network.W)
    costs = [[s.report.cost for s in r.subnetworks] for r in (one, whole)]
    assert_allclose(*costs, rtol=0.02)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_parts": 0}, "n_parts must be a whole number, 1 at least, got 0"),
        ({"n_parts": 2.5}, "n_parts must be a whole number, 1 at least, got 2.5"),
        ({"dtype": np.float16}, "dtype must be float32 or float64, got float16"),
        ({"fixed": np.ones(17)}, r"fixed must have shape \(f, 17\), got \(17,\)"),
        ({"executor": ThreadPoolExecutor(1)}, "data must say where the workers"),
        ({"ridge": -1.0}, "ridge must be finite and not negative"),
        ({"weight_decay": np.nan}, "weight_decay must be finite and not negative"),
    ],
)
def test_bad_settings(options, match, part):
    with pytest.raises(ValueError, match=match):
        PartitionedFunctional(whole_image_units("bilinear", (8, 8), 4), part, K, **options)
