import math

import numpy as np
import pytest

from varpro_nn import Network, whole_image_units
from varpro_nn.training.metrics import (
    LARGEST_MATRIX,
    ByClass,
    accuracy,
    confusion_matrix,
    measure,
    standard_error,
)


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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_figures_of_classes_are_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, 60), rng.integers(1, 6, 60)
    labels[labels == 4] = 3  # 4 is predicted and never true, 0 true and never predicted, 6 neither
    found = ByClass.of(predicted, labels, 7)
    expected = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=0.0
    )
    np.testing.assert_allclose(found.precision, expected[0])
    np.testing.assert_allclose(found.recall, expected[1])
    balanced = metrics.balanced_accuracy_score(labels, predicted)
    assert found.balanced_accuracy == pytest.approx(balanced)
    f1 = metrics.f1_score(labels, predicted, average="macro", zero_division=0.0)
    assert found.macro_f1 == pytest.approx(f1)


def test_the_confusion_matrix_is_that_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, 60), rng.integers(1, 6, 60)
    expected = metrics.confusion_matrix(labels, predicted, labels=range(7))
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, 7), expected)


@pytest.mark.parametrize("k", [2, LARGEST_MATRIX, LARGEST_MATRIX + 1])
def test_figures_have_a_confusion_matrix_of_at_most_100_classes(k):
    units = whole_image_units("dense", (2, 2), 1)
    network = Network(units, np.zeros((1, 5), np.float32), np.zeros((2, k)), np.arange(k), (2, 2))
    outputs, labels = np.eye(k)[[0, 1, 1]], np.array([0, 1, 0])
    figures = measure(network, outputs, labels)
    assert figures["accuracy"] == 2 / 3
    assert ("confusion_matrix" in figures) == (k <= 100)
    if k == 2:
        assert figures["confusion_matrix"] == [[1, 1], [0, 1]]
