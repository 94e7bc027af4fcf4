import numpy as np
import pytest

from experiments.shared.uncertainty import mean_and_error


def test_mean_and_error():
    assert mean_and_error([0.9], 100) == pytest.approx((0.9, 0.03))
    shares = [0.90, 0.92, 0.97]
    mean, error = mean_and_error(shares, 100)
    assert mean == pytest.approx(0.93)
    # Three seeds of one accuracy are as uncertain as their one sample of images.
    assert mean_and_error([0.9] * 3, 100) == pytest.approx(mean_and_error([0.9], 100))
    of_images, of_seeds = (0.09 + 0.0736 + 0.0291) / 3 / 100, np.var(shares, ddof=1) / 3
    assert error == pytest.approx(np.sqrt(of_images + of_seeds))
    # Each seed may have had images of its own number.
    of_images = (0.09 / 50 + 0.0736 / 100 + 0.0291 / 200) / 3
    error = mean_and_error(shares, [50, 100, 200])[1]
    assert error == pytest.approx(np.sqrt(of_images + of_seeds))
