"""Searches that go on past the ends of their grids."""

import logging

import numpy as np
import pytest
from numpy.testing import assert_allclose

from varpro_nn.linalg.ridge import LeaveOneOut
from varpro_nn.output import fit as fit_module
from varpro_nn.output.fit import fit_output_layer
from varpro_nn.output.penalties import PENALTIES, RIDGES, beyond
from varpro_nn.output.ridge_fit import _Search
from varpro_nn.output.settings import OutputSettings

WIDE = (1e-9, 1e9)


def test_a_grid_goes_on_with_its_step_from_the_end_that_is_best():
    assert beyond(PENALTIES, 1.0, WIDE) == beyond(RIDGES, 1e3, WIDE) == ()
    assert beyond(PENALTIES, 0.3, WIDE)[:3] == (0.1, 0.03, 0.01)
    assert beyond(PENALTIES[:2], 300.0, WIDE)[:3] == (1000.0, 3000.0, 10000.0)
    assert_allclose(beyond(RIDGES, RIDGES[0], WIDE)[:2], [10**-2.5, 1e-3])
    assert_allclose(beyond(RIDGES, RIDGES[-1], WIDE)[:2], [10**5.5, 1e6])
    assert_allclose(beyond(RIDGES[::-2], RIDGES[0], WIDE)[:2], [1e-3, 1e-4])


def test_it_ends_where_penalties_are_rounding_and_says_so(caplog):
    assert beyond(PENALTIES, 0.3, (0.02, 1e9)) == (0.1, 0.03)
    with caplog.at_level(logging.WARNING):
        assert beyond(PENALTIES, 0.3, (0.2, 1e9)) == ()
    assert "0.3, is at the end of the usable range, 0.2 to 1e+09" in caplog.text
    assert beyond(RIDGES, RIDGES[0], (0.0, 0.0)) == ()  # columns of zeros


class Scored:
    """Fits whose held-out loss is least at one penalty."""

    def __init__(self, best):
        self.best, self.tried = best, []

    def fit(self, rows, penalty, start, *, tolerance):
        self.tried.append(penalty)
        return np.zeros((2, 2)), None

    def measure(self, rows, A):
        loss = 1 + abs(np.log(self.tried[-1] / self.best))
        return loss, 0.1, np.full((3, 2), self.tried[-1])

    def bounds_of_penalties(self, rows):
        return WIDE


@pytest.mark.parametrize("best", [1e-3, 0.3, 3.0, 300.0, 30_000.0])
def test_the_split_search_ends_between_two_that_are_worse(best):
    fits = Scored(best)
    found = fit_module._search(fits, "hinge", PENALTIES, np.arange(3), slice(3, None))
    assert found.penalty == best
    assert found.penalties == sorted(fits.tried, reverse=True)
    assert found.penalties[0] > best > found.penalties[-1]
    assert_allclose(found.left_out.outputs, best)  # of the best penalty, not of the last
    at = dict(zip(found.penalties, found.losses, strict=True))
    assert at[best] == 1.0


def test_past_the_end_a_penalty_must_be_worthwhile():
    """A loss that falls towards a limit, as of images that can be separated."""

    class Falling(Scored):
        def measure(self, rows, A):
            return 1 + self.tried[-1] ** 0.5 / 10, 0.1, np.full((3, 2), self.tried[-1])

    fits = Falling(None)
    found = fit_module._search(fits, "hinge", PENALTIES, np.arange(3), slice(3, None))
    assert fits.tried == [*PENALTIES, 0.1, 0.03, 0.01]
    assert found.penalty == 0.03  # 0.01 lowers the loss by less than 1 %
    assert_allclose(found.left_out.outputs, 0.03)


def test_a_tie_that_the_last_bit_decides_is_a_tie():
    """Sums of the same weights in two orders."""
    rates = np.array([0.2, 0.1 + 1e-16, 0.1, 0.3])
    squares = np.array([1.0, 0.4, 0.5, 0.1])
    errors = LeaveOneOut(squares, rates, np.arange(0), np.zeros((0, 4, 2), np.float32))
    assert _Search(np.arange(4.0), errors, True).best == 1
    assert _Search(np.arange(4.0), errors, False).best == 3


class Columns:
    """Units whose features are the pixels."""

    n_cells = 1

    def __init__(self, q):
        self.n_units = self.n_weights = q

    def features(self, W, inputs):
        return inputs.reshape(len(inputs), -1) @ W.T


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("way", ["leave-one-out", "split", "sums"])
def test_the_ridge_lies_inside_its_grid_for_columns_of_any_size(way, size, rng, monkeypatch):
    """The best ridge is proportional to the squares of the columns."""
    from varpro_nn.compute.compute import Compute
    from varpro_nn.data.training_set import TrainingSet
    from varpro_nn.output.ridge_layer import RidgeLayer, _least_cross_validation

    Phi = rng.standard_normal((150, 30))
    # All columns say something: of one column among 30, a split sees nothing with some seeds.
    labels = (Phi.sum(axis=1) + np.sqrt(30) * rng.standard_normal(150) > 0).astype(int)
    images = (size * Phi)[:, None].astype(np.float32)
    units, W = Columns(30), np.eye(30, dtype=np.float32)
    if way == "sums":
        path = RidgeLayer(units, W, 2).add_images(images, labels).path()
        chosen, score = _least_cross_validation(path), path.generalised_cross_validation
        around = [score(factor * chosen) for factor in (0.1, 1.0, 10.0)]
        assert min(around) == around[1]
        return
    if way == "split":
        monkeypatch.setattr(fit_module, "LARGEST_EIGENPROBLEM", 0)
    training = TrainingSet(images, labels, 2)
    layer = fit_output_layer(OutputSettings(), units, W, training, Compute())
    assert layer.chosen_by == way
    assert min(layer.penalties) < layer.penalty < max(layer.penalties)
    assert sorted(layer.penalties) in (list(layer.penalties), list(layer.penalties)[::-1])
    assert len(layer.penalties) == len(layer.losses) == len(layer.error_rates)
    assert layer.left_out is not None
