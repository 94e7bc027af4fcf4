"""How good a network is: the one place that true labels of a test set reach."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, LabelArray
from varpro_nn.model.network import Network, probabilities
from varpro_nn.output.calibration import error_of_right_probabilities, expected_calibration_error

LARGEST_MATRIX = 100
"""Number of classes up to which the figures include a confusion matrix."""


def accuracy(predicted: LabelArray, labels: LabelArray) -> float:
    """Share of images whose predicted class number is the true one."""
    if predicted.shape != labels.shape or not len(labels):
        msg = (
            "predicted and labels must be of one length, not 0, "
            f"got {predicted.shape} and {labels.shape}."
        )
        raise ValueError(msg)
    return float(np.mean(predicted == labels))


@dataclass(frozen=True, slots=True, eq=False)
class ByClass:
    """Figures of each class, (k,), and their means; 0 where a ratio has nothing below the line.

    Attributes
    ----------
    precision : ndarray
        Share of the images predicted as the class that are of the class.
    recall : ndarray
        Share of the images of the class that are predicted as it.
    balanced_accuracy : float
        Mean recall of the classes that have images.
    macro_f1 : float
        Mean of ``2 precision recall / (precision + recall)`` over the classes that have images or
        are predicted.
    """

    precision: FloatArray
    recall: FloatArray
    balanced_accuracy: float
    macro_f1: float

    @classmethod
    def of(cls, predicted: LabelArray, labels: LabelArray, n_classes: int) -> "ByClass":
        """Count predicted and true class numbers, both (n,)."""
        right = np.bincount(labels[predicted == labels], minlength=n_classes)
        found = np.bincount(predicted, minlength=n_classes)
        true = np.bincount(labels, minlength=n_classes)
        # 2 P R / (P + R) is 2 right / (found + true).
        f1 = _ratio(2 * right, found + true)
        recall = _ratio(right, true)
        return cls(
            _ratio(right, found), recall,
            float(recall[true > 0].mean()), float(f1[found + true > 0].mean()),
        )  # fmt: skip


def confusion_matrix(
    predicted: LabelArray, labels: LabelArray, n_classes: int
) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns), (k, k)."""
    cells = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def measure(network: Network, outputs: FloatArray, labels: LabelArray) -> dict[str, Any]:
    """Compare outputs (n, k) of a network with true class numbers (n,).

    Returns
    -------
    dict
        Plain values; ``docs/metrics.md`` says what each stands for.
    """
    predicted = outputs.argmax(axis=1)
    share = accuracy(predicted, labels)
    proba = probabilities(outputs, network.output_layer, network.temperature)
    names = [str(name) for name in network.classes.tolist()]
    k = len(names)
    by_class = ByClass.of(predicted, labels, k)
    figures = {
        "accuracy": share,
        "accuracy_standard_error": standard_error(share, len(labels)),
        "balanced_accuracy": by_class.balanced_accuracy,
        "macro_f1": by_class.macro_f1,
        "precision": dict(zip(names, by_class.precision.tolist(), strict=True)),
        "recall": {
            name: recall if n else None  # nothing is known of a class without images
            for name, recall, n in zip(
                names, by_class.recall.tolist(), np.bincount(labels, minlength=k), strict=True
            )
        },
        "calibration_error": expected_calibration_error(proba, labels),
        "calibration_error_by_chance": error_of_right_probabilities(proba),
    }
    if k <= LARGEST_MATRIX:
        figures["confusion_matrix"] = confusion_matrix(predicted, labels, k).tolist()
    return figures


def _ratio(above: LabelArray, below: LabelArray) -> FloatArray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def standard_error(share: float, n: int) -> float:
    """Binomial standard error of a share measured on ``n`` images."""
    return math.sqrt(share * (1 - share) / n)
