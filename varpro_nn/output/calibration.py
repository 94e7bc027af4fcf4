"""Probabilities that mean what they say, from outputs that did not see their image.

The outputs are those that the output layer would give an image had it never seen it
(:class:`varpro_nn.output.output_layer.LeftOut`), so no image need be held back. The units may
have seen it: as far as they know it by heart, probabilities come out a little too sure.

References
----------
J. Platt, Probabilistic outputs for support vector machines (1999).
C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On calibration of modern neural networks, ICML (2017).
V. Vovk, A. Gammerman and G. Shafer, Algorithmic learning in a random world (2005).
"""

import numpy as np
import scipy
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, LabelArray, RealArray

N_BINS = 15
"""Bins of the expected calibration error."""
_RANGE = 1e4
"""A temperature lies within this factor of the spread of the outputs, either way."""


def fit_temperature(
    outputs: RealArray, labels: LabelArray, sample_weight: FloatArray | None = None
) -> float | None:
    """Find the temperature ``T`` whose ``softmax(outputs / T)`` makes the labels most likely.

    As in Platt's scaling each label counts ``(n + 1) / (n + 2)`` and the others share the rest, so
    that images which are all right give no probability of 1. ``outputs`` (n, k) are of images that
    the layer did not see; rows with NaN are left out. None if no row is left, or all
    outputs of each row are the same, but for rounding.
    """
    known = np.isfinite(outputs).all(axis=1)
    weights = np.ones(len(labels)) if sample_weight is None else sample_weight
    known &= weights > 0
    z, codes, weights = outputs[known].astype(np.float64), labels[known], weights[known]
    size = np.abs(z).max(axis=1, keepdims=True)
    z -= z.mean(axis=1, keepdims=True)  # what a row has in common moves no probability
    if not (np.abs(z) > 4 * np.finfo(outputs.dtype).eps * size).any():
        return None
    spread = float(z.std())
    # z'(targets), of smoothed targets: that much for the label, the rest for the others alike.
    own, all_of_them = z[np.arange(len(z)), codes], z.sum(axis=1)
    n, k = len(z), z.shape[1]
    rest = 1 / ((n + 2) * max(k - 1, 1))
    aimed = own * (1 - rest * (k - 1)) + (all_of_them - own) * rest

    def loss(log_slope: float) -> float:
        slope = np.exp(log_slope) / spread  # convex in the slope 1 / T: one minimum
        return float(weights @ (scipy.special.logsumexp(slope * z, axis=1) - slope * aimed))

    found = scipy.optimize.minimize_scalar(
        loss, bounds=(-np.log(_RANGE), np.log(_RANGE)), method="bounded"
    )
    return float(spread / np.exp(found.x))


def expected_calibration_error(
    probabilities: FloatArray, labels: LabelArray, sample_weight: FloatArray | None = None
) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, in [0, 1]."""
    shares, confidence, accuracy = calibration_curve(probabilities, labels, sample_weight)
    return float(shares @ np.abs(confidence - accuracy))


def calibration_curve(
    probabilities: FloatArray, labels: LabelArray, sample_weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Confidence and accuracy in the non-empty ones of :data:`N_BINS` equal bins of confidence.

    Returns
    -------
    shares, confidence, accuracy : ndarray, shape (bins,)
        Share of the images in each bin, their mean confidence (largest probability), and their
        accuracy.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    weights = np.ones(len(labels)) if sample_weight is None else sample_weight
    bins = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
    total, sum_confidence, n_correct = (
        np.bincount(bins, weights=weights * each, minlength=N_BINS)
        for each in (np.ones(len(labels)), confidence, correct)
    )
    there = total > 0
    total, sum_confidence, n_correct = total[there], sum_confidence[there], n_correct[there]
    return total / total.sum(), sum_confidence / total, n_correct / total


def conformal_threshold(probabilities: FloatArray, labels: LabelArray, alpha: float) -> float:
    """Find the probability from which a label belongs to a set that misses ``alpha`` at most.

    ``probabilities`` (n, k) are of images that the layer did not see. The label of a new image has
    at least the returned probability with probability ``1 - alpha``, if the image is drawn like
    these and its probability is made like theirs. 0, so that every label belongs, where there are
    too few images to tell.

    Raises
    ------
    ValueError
        ``alpha`` is not in (0, 1).
    """
    if not 0 < alpha < 1:
        msg = f"alpha must be between 0 and 1, got {alpha}."
        raise ValueError(msg)
    own = np.sort(probabilities[np.arange(len(labels)), labels])
    # The rank of a new one among n + 1 is uniform: at most that many may lie below it.
    missed = int(np.floor(alpha * (len(own) + 1)))
    return float(own[missed - 1]) if missed >= 1 else 0.0


def label_sets(probabilities: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Labels that belong, (n, k): those from the threshold on; never an empty set."""
    sets = probabilities >= threshold
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets
