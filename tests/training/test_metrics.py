import math

import numpy as np
import pytest

from varpro_nn.training.metrics import accuracy, standard_error


def test_accuracy_by_hand():
    assert accuracy(np.array([1, 2, 3, 4]), np.array([1, 0, 3, 4])) == 0.75


@pytest.mark.parametrize(("n", "m"), [(3, 4), (0, 0)])
def test_lengths_must_be_equal_and_not_zero(n, m):
    with pytest.raises(ValueError, match=rf"one length, not 0, got \({n},\) and \({m},\)"):
        accuracy(np.zeros(n, int), np.zeros(m, int))


def test_a_column_of_labels_is_not_compared_with_every_prediction():
    with pytest.raises(ValueError, match="one length"):
        accuracy(np.zeros(3, int), np.zeros((3, 1), int))


def test_standard_error_is_that_of_a_mean_of_zeros_and_ones():
    hits = np.array([1] * 90 + [0] * 10)
    assert math.isclose(standard_error(0.9, 100), hits.std() / math.sqrt(100))
    assert standard_error(1.0, 7) == standard_error(0.0, 7) == 0
