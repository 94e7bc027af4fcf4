import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from experiments.field import layer_by_adam
from varpro_nn import configure, load


@pytest.fixture
def problem():
    data = load("digits")
    config = configure(data="digits", **layer_by_adam.SETTINGS["digits"], n_train=None)
    return layer_by_adam.Problem.of(config, data)


def test_both_trainings_start_from_the_same_weights(problem):
    start = problem.start()
    assert_array_equal(start, problem.start())
    assert start.shape == (12, problem.units.n_weights)
    W = problem.by_variable_projection()
    assert W.shape == start.shape
    assert not np.array_equal(W, start)


def test_adam_sees_the_features_of_the_units(problem):
    """Its means over cells of both sides are the columns, in their order."""
    units, images = problem.plan.units, problem.training.images[:5]
    W = problem.start()
    maps = units.below(images, np.float64)
    z = np.einsum("bdyx,hd->byxh", maps, W[:, :-1]) + W[:, -1]
    means, threshold = layer_by_adam._means(units), units.units.threshold
    sides = (np.maximum(side * z - threshold, 0).reshape(5, -1, len(W)) for side in (1, -1))
    Phi = np.concatenate([(means @ side).reshape(5, -1) for side in sides], axis=1)
    assert_allclose(Phi, units.features(W, images), atol=1e-9)


def test_quick_run(run_script):
    pytest.importorskip("torch")
    rows = run_script(layer_by_adam, "digits", "--quick")[1]["rows"]
    names = [layer_by_adam.UNTRAINED, layer_by_adam.VARPRO, layer_by_adam.ADAM]
    assert [row["training"] for row in rows] == names
    assert all(0.4 < row["held_out_accuracy"] <= 1 for row in rows)
    assert rows[2]["n_passes"] > 0
    # The budget is that of the row before; a pass that has begun ends within a batch.
    assert rows[2]["units_cpu_seconds"] > rows[1]["units_cpu_seconds"]
    assert rows[0]["held_out_accuracy"] < rows[1]["held_out_accuracy"]
