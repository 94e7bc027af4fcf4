"""How good a network is: the one place that true labels of a test set reach."""

import math

import numpy as np

from varpro_nn._typing import LabelArray


def accuracy(predicted: LabelArray, labels: LabelArray) -> float:
    """Share of images whose predicted class number is the true one."""
    if predicted.shape != labels.shape or not len(labels):
        msg = (
            "predicted and labels must be of one length, not 0, "
            f"got {predicted.shape} and {labels.shape}."
        )
        raise ValueError(msg)
    return float(np.mean(predicted == labels))


def standard_error(share: float, n: int) -> float:
    """Binomial standard error of a share measured on ``n`` images."""
    return math.sqrt(share * (1 - share) / n)
