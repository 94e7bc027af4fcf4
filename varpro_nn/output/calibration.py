"""Calibrated probabilities and conformal prediction sets, from held-out outputs.

The output of each image comes from an output layer that was fitted without the image
(:class:`varpro_nn.output.output_layer.LeftOut`); the final fit uses all images. The units may have
been trained on it: as far as they overfit, probabilities are a little overconfident.

References
----------
J. Platt, Probabilistic outputs for support vector machines (1999).
C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On calibration of modern neural networks, ICML (2017).
V. Vovk, A. Gammerman and G. Shafer, Algorithmic learning in a random world (2005).
R. Tibshirani, R. Barber, E. Candes and A. Ramdas, Conformal prediction under covariate shift,
NeurIPS (2019).
"""

import numpy as np
import scipy
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, LabelArray, RealArray

N_BINS = 15
"""Bins of the expected calibration error."""
_DRAWS = 200
_RANGE = 1e4
"""A temperature lies within this factor of the spread of the outputs, either way."""


def fit_temperature(
    outputs: RealArray, labels: LabelArray, sample_weight: FloatArray | None = None
) -> float | None:
    """Find the temperature ``T`` whose ``softmax(outputs / T)`` makes the labels most likely.

    As in Platt's scaling, the target of a label is ``(n + 1) / (n + 2)`` and the other labels share
    the rest, so images without errors do not give probabilities of 1. ``outputs`` (n, k) are those
    of held-out images; rows with NaN are left out. The temperature is None if no row is left, or
    if the outputs of each row are equal up to rounding.
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
    # z'(targets) with smoothed targets: the other labels share the rest equally.
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
    """Compute the mean gap between confidence and accuracy over bins of confidence, in [0, 1]."""
    shares, confidence, accuracy = calibration_curve(probabilities, labels, sample_weight)
    return float(shares @ np.abs(confidence - accuracy))


def calibration_curve(
    probabilities: FloatArray, labels: LabelArray, sample_weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compute confidence and accuracy in :data:`N_BINS` equal bins, without empty ones.

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


def error_of_right_probabilities(
    probabilities: FloatArray, sample_weight: FloatArray | None = None
) -> float:
    """Estimate the calibration error that exactly right probabilities have by chance.

    With few images, the gap of a bin is rarely zero, even if all probabilities are right. Each draw
    makes the most likely label of an image the true one with the probability of that label. The
    result is the mean over the draws, which are always the same.
    """
    confidence = probabilities.max(axis=1)
    likeliest = probabilities.argmax(axis=1)
    rng = np.random.default_rng(0)
    errors = [
        expected_calibration_error(
            probabilities, np.where(rng.random(len(confidence)) < confidence, likeliest, -1),
            sample_weight,
        )
        for _ in range(_DRAWS)
    ]  # fmt: skip
    return float(np.mean(errors))


def conformal_threshold(
    probabilities: FloatArray,
    labels: LabelArray,
    alpha: float,
    sample_weight: FloatArray | None = None,
) -> float:
    """Find the threshold of conformal prediction sets, which miss the label with rate ``alpha``.

    A set has the labels whose probability is at least the threshold. ``probabilities`` (n, k) are
    those of held-out images. The set of a new image contains its label with probability at least
    ``1 - alpha``, if the image comes from the same distribution and its probabilities from the same
    computation. With too few images the threshold is 0, and each set has all labels.

    With weights ``v_i`` (proportional to the ratio of the densities of new and held-out images), at
    most a share ``alpha`` of ``sum(v) + mean(v)`` lies below the threshold: the new image counts
    with a mean weight (Tibshirani et al., 2019). Equal weights change nothing.

    Raises
    ------
    ValueError
        ``alpha`` is not in (0, 1).
    """
    if not 0 < alpha < 1:
        msg = f"alpha must be between 0 and 1, got {alpha}."
        raise ValueError(msg)
    own = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(own)
    own = own[order]
    weights = np.ones(len(own)) if sample_weight is None else sample_weight[order]
    # The rank of a new one among n + 1 is uniform: at most that many may lie below it.
    allowed = alpha * (weights.sum() + weights.mean())
    missed = int(np.count_nonzero(np.cumsum(weights) <= allowed * (1 + 1e-12)))
    return float(own[missed - 1]) if missed >= 1 else 0.0


def label_sets(probabilities: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Labels that belong, (n, k): those from the threshold on; never an empty set."""
    sets = probabilities >= threshold
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets
