import numpy as np
import pytest

from experiments.claims import templates
from varpro_nn import configure, load, run
from varpro_nn.data.images import intensities


def test_derivatives_are_those_of_the_outputs():
    digits = load("digits")
    config = configure("paper", data=digits, n_units=4, n_subnetworks=1, n_train=200, max_nfev=2)
    network = run(config, digits, n_jobs=1).network
    images = intensities(digits.train.images[:50])
    found = templates.class_derivatives(network, images)
    mean = images.mean(axis=0, dtype=np.float64)
    step = 1e-2
    for pixel in [(0, 3), (4, 4), (5, 2)]:
        pair = np.stack([mean, mean]).astype(np.float32)
        pair[0][pixel] += step
        pair[1][pixel] -= step
        above, below = network.decision_function(pair)
        slope = (above - below) / (2 * step)
        np.testing.assert_allclose(
            found[:, pixel[0] * 8 + pixel[1]], slope, atol=2e-3 * np.abs(found).max()
        )


def test_figure(tmp_path):
    pytest.importorskip("matplotlib")
    rows = {"a": [[0.0] * 12, [1.0, *[0.0] * 11]], "b": [[2.0] * 12, list(range(12))]}
    templates.draw(rows, ["first", "second"], (3, 2, 2), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text.count("<image") == 4
    templates.draw(rows, ["first", "second"], (3, 4), tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 0
