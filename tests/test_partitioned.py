"""The functional in parts: the same function, and the same bits for any workers."""

import os
import signal
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import configure, load, patch_units, run, whole_image_units
from varpro_nn.datasets import ImageSet
from varpro_nn.errors import TrainingError
from varpro_nn.fit import fit
from varpro_nn.functional import VarProFunctional
from varpro_nn.partitioned import PartitionedFunctional
from varpro_nn.pool import WorkerPool
from varpro_nn.training_data import stored
from varpro_nn.units import WholeImageUnits, learn_whitening

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
        there = PartitionedFunctional(units, data, K, executor=pool, **options)
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
        functional = PartitionedFunctional(Deadly("bilinear", (8, 8), 4), data, K, executor=pool)
        with pytest.raises(TrainingError, match=r"part \d of 8 of some sums cannot be had"):
            functional.cost(np.zeros(functional.n_weights))


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
        ({"n_parts": 0}, "n_parts must be at least 1, got 0"),
        ({"ridge": -1.0}, "ridge must be finite and not negative"),
        ({"weight_decay": np.nan}, "weight_decay must be finite and not negative"),
    ],
)
def test_bad_settings(options, match, part):
    with pytest.raises(ValueError, match=match):
        PartitionedFunctional(whole_image_units("bilinear", (8, 8), 4), part, K, **options)
