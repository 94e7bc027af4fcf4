import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from experiments.field import layer_by_adam
from varpro_nn import configure, load


@pytest.fixture(scope="module")
def problem():
    config = configure(data="digits", **layer_by_adam.SETTINGS["digits"])
    return layer_by_adam.Problem.of(config, load("digits"))


def test_variable_projection_starts_from_what_is_given(problem):
    start = problem.start()
    assert_array_equal(start, problem.start())
    assert start.shape == (12, problem.units.n_weights)
    given = start.copy()
    W = problem.by_variable_projection(given)
    assert_array_equal(given, start)
    assert W.shape == start.shape
    assert 0 < np.abs(W - start).max() < 10
    assert not np.allclose(W, problem.by_variable_projection(2 * start), atol=0.1)


def test_adam_sees_the_features_of_the_units(problem):
    """In the order of the package: side, cell, unit."""
    torch = pytest.importorskip("torch")
    units, images = problem.plan.units, problem.training.images[:5]
    W = problem.start()
    maps = torch.from_numpy(units.below(images, np.float64)).flatten(2).transpose(1, 2)
    means = torch.from_numpy(layer_by_adam.means_of_cells(units))
    found = layer_by_adam.features(torch.from_numpy(W), maps, means, units.units.threshold)
    assert_allclose(found.numpy(), units.features(W, images), atol=1e-9)


def test_adam_ends_with_its_time(problem, monkeypatch):
    """By a clock that goes on by one each time it is read: once a batch."""
    pytest.importorskip("torch")
    start = problem.start()
    n_batches = -(-len(problem.training) // layer_by_adam.BATCH)
    found = {}
    for budget in (0, 2 * n_batches, 4 * n_batches):
        monkeypatch.setattr(layer_by_adam.time, "process_time", itertools.count().__next__)
        found[budget] = layer_by_adam.by_adam(problem, start, 1e-3, budget)
    assert_allclose(found[0][0], start, atol=1e-6)
    assert [n_passes for _, n_passes in found.values()] == [0, 2, 4]
    moved = [np.abs(W - start).mean() for W, _ in found.values()]
    assert moved[0] < moved[1] < moved[2]


def test_quick_run(run_script):
    pytest.importorskip("torch")
    rows = run_script(layer_by_adam, "digits", "--quick")[1]["rows"]
    names = [layer_by_adam.UNTRAINED, layer_by_adam.VARPRO, layer_by_adam.ADAM]
    assert [row["training"] for row in rows] == names
    assert all(0.4 < row["held_out_accuracy"] <= 1 for row in rows)
    assert rows[2]["n_passes"] > 0
    assert rows[0]["held_out_accuracy"] < rows[1]["held_out_accuracy"]
