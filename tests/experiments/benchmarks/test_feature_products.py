import numpy as np
import pytest

from experiments.benchmarks import features
from varpro_nn import patch_units
from varpro_nn.units import ACTIVATIONS


def test_products_alone_are_all_of_them(monkeypatch):
    units, done = patch_units("dense", (28, 28), 100, window=7), []
    monkeypatch.setattr(np, "matmul", lambda a, b, out: done.append(a.size * b.shape[1]))
    features.products_alone(units, 64)
    places = 22 * 22
    assert sum(done) == 64 * places * 100 * (7 * 7 + 1)


@pytest.mark.usefixtures("mnist")
def test_each_activation_is_measured(run_script):
    small = ["--n-images", "64", "--n-units", "3"]
    result = run_script(features, *small)[1]
    assert set(result["activations"]) == set(ACTIVATIONS)
    for row in result["activations"].values():
        assert row["features"] > 0
        assert row["products"] > 0
