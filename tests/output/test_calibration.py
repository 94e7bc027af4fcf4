"""Temperatures, calibration errors and label sets against what they are defined as."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from varpro_nn.output.calibration import (
    _DRAWS,
    N_BINS,
    calibration_curve,
    conformal_threshold,
    error_of_right_probabilities,
    expected_calibration_error,
    fit_temperature,
    label_sets,
)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_a_temperature_is_found_again(temperature, rng):
    z = rng.standard_normal((20_000, 4)) * 2
    p = special.softmax(z, axis=1)
    labels = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    # The Fisher information of the logarithm of a temperature is the variance of the outputs.
    information = np.sum(p * z**2) - np.sum(np.sum(p * z, axis=1) ** 2)
    found = fit_temperature(z * temperature, labels)
    assert abs(np.log(found / temperature)) < 5 / np.sqrt(information)  # standard errors


def test_it_is_the_minimum(rng):
    z = rng.standard_normal((300, 3))
    labels, weights = rng.integers(0, 3, 300), rng.random(300)
    labels[:200] = z[:200].argmax(axis=1)
    T = fit_temperature(z, labels, weights)

    def loss(T):
        smooth = np.full((300, 3), 1 / 302 / 2)
        smooth[np.arange(300), labels] = 301 / 302
        return -weights @ (smooth * special.log_softmax(z / T, axis=1)).sum(axis=1)

    assert loss(T) <= min(loss(T * 1.01), loss(T / 1.01))


def test_outputs_that_are_not_known_do_not_count(rng):
    z = rng.standard_normal((200, 3))
    labels = rng.integers(0, 3, 200)
    labels[:100] = z[:100].argmax(axis=1)
    some = np.concatenate([z, np.full((5, 3), np.nan)])
    more = np.concatenate([labels, np.zeros(5, dtype=int)])
    assert fit_temperature(some, more) == fit_temperature(z, labels)
    assert fit_temperature(np.full((4, 3), np.nan), np.zeros(4, dtype=int)) is None
    assert fit_temperature(np.ones((4, 3)), np.zeros(4, dtype=int)) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_outputs_of_an_image_have_in_common_has_no_say(dtype, rng):
    outputs = rng.standard_normal((400, 4)).astype(dtype)
    labels = np.argmax(outputs + rng.standard_normal((400, 4)), axis=1)
    expected = fit_temperature(outputs[1:], labels[1:])
    assert expected is not None
    outputs[0] = 1e8  # the rounding of which is more than the other outputs are
    assert fit_temperature(outputs, labels) == pytest.approx(expected, rel=1e-2)
    outputs[0], outputs[1:] = 0, outputs[1:] + rng.integers(1000, size=(399, 1))
    assert fit_temperature(outputs, labels) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", [0.1, 1e-6, 1e6])
def test_outputs_that_differ_by_rounding_alone_have_no_temperature(row, dtype, rng):
    """Their deviation is 1e-17, not 0; a temperature of that size makes rounding certain."""
    z = np.full((50, 3), row, dtype=dtype)
    labels = rng.integers(0, 3, 50)
    assert fit_temperature(z, labels) is None
    z *= rng.random((50, 1)).astype(dtype)  # what a row has in common is no difference
    z[:, 0] *= 1 + np.finfo(dtype).eps
    assert fit_temperature(z, labels) is None


def test_calibration_error_bin_by_bin(rng):
    p = special.softmax(3 * rng.standard_normal((500, 4)), axis=1)
    labels, weights = rng.integers(0, 4, 500), rng.random(500)
    sure, right = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    for b in range(N_BINS):
        inside = (sure >= b / N_BINS) & ((sure < (b + 1) / N_BINS) | (b == N_BINS - 1))
        if inside.any():
            w = weights[inside]
            gap = abs(np.average(sure[inside], weights=w) - np.average(right[inside], weights=w))
            expected += w.sum() / weights.sum() * gap
    assert expected_calibration_error(p, labels, weights) == pytest.approx(expected)
    shares, confidence, accuracy = calibration_curve(p, labels)
    assert_allclose([shares.sum(), shares @ confidence, shares @ accuracy],
                    [1, sure.mean(), right.mean()])  # fmt: skip
    certain = np.eye(4)[labels]
    assert expected_calibration_error(certain, labels) == 0
    assert expected_calibration_error(certain, (labels + 1) % 4) == 1


@pytest.mark.parametrize("n", [3, 30, 3000])
def test_who_is_always_right_is_as_sure_as_so_many_images_allow(n):
    labels = np.arange(n) % 3
    T = fit_temperature(np.eye(3)[labels] * 7, labels)
    sure = special.softmax(np.eye(3)[0] * 7 / T)[0]
    assert sure == pytest.approx((n + 1) / (n + 2), rel=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_sets_miss_as_often_as_was_asked_for(alpha, rng):
    """Over many draws of images and one new one, as exchangeability promises."""
    n, repeats, missed = 59, 4000, 0
    for _ in range(repeats):
        p = rng.dirichlet(np.ones(5), n + 1)
        labels = (p.cumsum(axis=1) < rng.random((n + 1, 1))).sum(axis=1)
        threshold = conformal_threshold(p[:n], labels[:n], alpha)
        missed += p[n, labels[n]] < threshold
    expected = np.floor(alpha * (n + 1)) / (n + 1)
    assert missed / repeats == pytest.approx(expected, abs=4 * np.sqrt(expected / repeats))


def test_weights_put_a_shift_of_the_images_right(rng):
    """Hard images are one in ten among the held-out ones and one in two among the new ones."""
    alpha, n = 0.1, 4000

    def draw(share_hard):
        hard = rng.random(n) < share_hard
        p = special.softmax(np.where(hard, 0.5, 4.0)[:, None] * rng.standard_normal((n, 5)), axis=1)
        # Probabilities of hard images are too sure.
        true = special.softmax(np.log(p) * np.where(hard, 0.2, 1.0)[:, None], axis=1)
        labels = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        return p, labels, np.where(hard, 5.0, 0.5 / 0.9)

    p, labels, weights = draw(0.1)
    new, truth, _ = draw(0.5)

    def missed(threshold):
        return float((new[np.arange(n), truth] < threshold).mean())

    weighted = conformal_threshold(p, labels, alpha, weights)
    error = 4 * np.sqrt(alpha / (n * 0.1))  # of the few hard ones
    assert missed(weighted) == pytest.approx(alpha, abs=error)
    assert abs(missed(conformal_threshold(p, labels, alpha)) - alpha) > error
    # Weights of one, on any scale, and a row twice.
    plain = conformal_threshold(p[:57], labels[:57], 0.2)
    assert conformal_threshold(p[:57], labels[:57], 0.2, np.full(57, 0.3)) == plain


@pytest.mark.parametrize("n", [300, 10_000])
def test_right_probabilities_have_a_calibration_error_by_chance(n, rng):
    """As much as labels drawn from the probabilities themselves show, within five errors."""
    p = special.softmax(3 * rng.standard_normal((n, 10)), axis=1)
    labels = [(p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1) for _ in range(100)]
    drawn = [expected_calibration_error(p, each) for each in labels]
    expected = error_of_right_probabilities(p)
    error = np.std(drawn) * np.sqrt(1 / len(drawn) + 1 / _DRAWS)
    assert expected == pytest.approx(np.mean(drawn), abs=5 * error)
    assert 5 * error < 0.2 * expected
    assert expected == error_of_right_probabilities(p)


def test_few_images_give_every_label():
    p, labels = np.full((3, 4), 0.25), np.zeros(3, dtype=int)
    assert conformal_threshold(p, labels, 0.1) == 0
    assert label_sets(p, 0.0).all()
    assert label_sets(np.array([[0.5, 0.3, 0.2]]), 0.9).tolist() == [[True, False, False]]


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, np.nan])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValueError, match=r"alpha must be between 0 and 1, got"):
        conformal_threshold(np.full((3, 4), 0.25), np.zeros(3, dtype=int), alpha)
