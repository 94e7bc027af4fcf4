"""Slopes of known laws, counts against their formulas, and what a phase's clock leaves out."""

import json
import re
import sys
import time

import numpy as np
import pytest

from experiments.benchmarks import scaling_laws, scaling_phases
from experiments.benchmarks.scaling_counts import (
    Point,
    Product,
    products_of_factorisation,
    products_of_features,
    products_of_gram,
    products_of_leave_one_out,
    products_of_predict,
    products_of_subnetwork,
)
from experiments.benchmarks.scaling_phases import PHASES, QUICK_BASE, made_data


def flop(products):
    return sum(product.flop for product in products)


def test_slope_of_a_power_law_is_that_of_the_last_half():
    x = [1.0, 2, 4, 8, 16, 32]
    y = [7.0, 7, 7, *(3 * np.array(x[3:]) ** 2.5)]
    slope, error = scaling_laws.slope(x, y)
    assert slope == pytest.approx(2.5)
    assert error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("exponent", [1.0, 1.4])
def test_departures_are_marked(exponent):
    rows = [
        {"phase": "a", "quantity": "n", "value": n, "cpu_seconds": n**exponent * noise,
         "products_cpu_seconds": n * 2.0, "gflop": n * 3.0, "extra_mib": 5.0 * n}
        for n, noise in zip((10, 20, 40, 80, 160), (1, 1, 1.01, 0.99, 1.01), strict=True)
    ]  # fmt: skip
    found = scaling_laws.fit_slopes(rows)
    assert found["slope"] == pytest.approx(exponent, abs=0.03)
    assert found["predicted"] == pytest.approx(1)
    assert found["slope_of_memory"] == pytest.approx(1)
    assert found["departs"] == (exponent != 1)


def test_products_count_their_operations():
    assert Product(3, 5, 7, 11, batch=2).flop == 3 * 2 * 5 * 7 * 11 * 2
    assert Product(1, 5, 7, 5, symmetric=True).flop == 7 * 5 * 5
    one, three = (Product(times, 300, 300, 300).cpu_seconds(0.05) for times in (1, 300))
    assert three > 100 * one


def test_counts_are_those_of_the_formulas():
    n, h, k, s = point = Point(5000, 40, 7, 30)
    P, q, g = h * (2 * s + 1), h + 1, 15
    assert flop(products_of_features(False, point)) == pytest.approx(2 * n * h * s**2)
    assert flop(products_of_features(True, point)) == pytest.approx(2 * n * h * 26 * 26**2)
    linear = 2 * n * (q + k) ** 2 + n * q**2 + 4 * n * q * k
    operator = 8 * n * h * s**2 + linear + n * q**2
    operator += 41 * (2 * n * P + 2 * n * h * k + 4 * n * q * k)
    assert flop(products_of_subnetwork(False, "operator", point)) == pytest.approx(operator)
    reduced = 8 * n * h * s**2 + linear + n * P * (P + 2 * q + 2 * k)
    reduced += q * P * (P + q) + P**3 / 3 + 82 * P**2
    assert flop(products_of_subnetwork(False, "reduced", point)) == pytest.approx(reduced)
    assert flop(products_of_gram(point)) == pytest.approx(n * h**2 + 2 * n * h * (k + 1))
    large = point._replace(h=2048)  # four tiles of 512 columns, six pairs of them
    assert flop(products_of_gram(large)) == pytest.approx(
        n * 4 * 512**2 + 2 * n * 6 * 512**2 + 2 * n * 2048 * (k + 1)
    )
    factorisation = 14 / 3 * h**3 + 2 * (g + 1) * h**2 * k
    assert flop(products_of_factorisation(point)) == pytest.approx(factorisation)
    left_out = 2 * n * h**2 + 2 * n * h * g * (k + 1)
    assert flop(products_of_leave_one_out(point)) == pytest.approx(left_out)
    assert flop(products_of_predict(point)) == pytest.approx(2 * n * h * s**2 + 2 * n * h * k)
    # Windows: 26 numbers, 26 x 26 places, 16 cells; blocks of images do not change the count.
    m, P, q = 16, h * 26, 16 * h + 1
    windows = 6 * n * P * 26**2 + 2 * n * (q + k) ** 2 + n * q**2 + 4 * n * q * k
    windows += n * k * P * (P + 2 * q + 2 * m + 2) + q * k * P * (P + q) + P**3 / 3 + 82 * P**2
    found = flop(products_of_subnetwork(True, "reduced", point))
    assert found == pytest.approx(windows, rel=0.01)  # places are cut into cells of equal size


@pytest.mark.parametrize("name", PHASES)
def test_printed_counts_are_those_of_the_products(name):
    """Evaluate the text at the base point of the phase."""
    phase = PHASES[name]
    n, h, k, s = phase.base
    P, q = h * (2 * s + 1), h
    if name.startswith("sub-network"):
        q = h + 1
    if "windows" in name:
        P, q = h * 26, 16 * h + 1
    text = phase.count.split(";")[0].replace("²", "**2").replace("³", "**3")
    formula = re.sub(r"(?<=[\w)])\s+(?=[\w(])", " * ", text)
    told = eval(formula, {"n": n, "h": h, "k": k, "s": s, "P": P, "q": q, "m": 16, "g": 15})
    assert told == pytest.approx(flop(phase.products(phase.base)), rel=0.03)


def test_made_images_depend_on_their_class():
    point = Point(1000, 1, 3, 12)
    images, labels = made_data(point, 0)
    assert images.shape == (1000, 12, 12)
    assert images.dtype == np.uint8
    assert set(labels) == {0, 1, 2}
    means = np.array([images[labels == c].mean(axis=0) for c in range(3)])
    within = np.mean([images[labels == c].std(axis=0).mean() for c in range(3)])
    assert within == pytest.approx(128 / 12**0.5, rel=0.05)  # of uniform noise
    assert np.abs(means[0] - means[1]).mean() > 20
    again = made_data(point, 0)[0]
    np.testing.assert_array_equal(again, images)
    assert (made_data(point, 1)[0] != images).any()


@pytest.mark.parametrize("name", PHASES)
def test_phases_vary_around_their_base_point(name):
    phase = PHASES[name]
    for quantity, values in phase.values.items():
        assert list(values) == sorted(set(values))
        assert getattr(phase.base, quantity) in values
    once = phase.prepare(QUICK_BASE, *made_data(QUICK_BASE, 0))
    assert 0 < once() < 5


@pytest.mark.parametrize("name", ["Gram matrix", "leave-one-out"])
def test_features_are_not_in_the_time_of_the_glue(name, monkeypatch):
    real = scaling_phases.block_features

    def slow(*arguments):
        start = time.process_time()
        while time.process_time() - start < 0.1:
            pass
        return real(*arguments)

    monkeypatch.setattr(scaling_phases, "block_features", slow)
    once = PHASES[name].prepare(QUICK_BASE, *made_data(QUICK_BASE, 0))
    assert once() < 0.08


@pytest.mark.slow
def test_a_task_in_a_process_of_its_own():
    point = QUICK_BASE._replace(n=4000, side=64)  # 64 MiB in single precision
    row = scaling_laws.in_child(json.dumps(["features, whole image", point, 0, 0.0]))
    assert row["gflop"] == pytest.approx(2 * 4000 * 8 * 64**2 / 1e9)
    assert 60 < row["extra_mib"] < 200
    assert 0 < row["products_cpu_seconds"] < 5


def test_quick_run(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "a.svg"
    arguments = ["--quick", "--only", "Gram matrix", "predict", "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
    scaling_laws.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {(row["phase"], row["quantity"]) for row in result["slopes"]} == {
        *(("Gram matrix", quantity) for quantity in ("n", "h", "k")),
        *(("predict", quantity) for quantity in ("n", "h", "k", "side")),
    }
    assert all(row["cpu_seconds"] > 0 for row in result["rows"])
    at_base = [row for row in result["rows"] if row["phase"] == "predict" and row["value"] == 12]
    assert at_base[0]["gflop"] == pytest.approx((2 * 400 * 8 * 144 + 2 * 400 * 8 * 5) / 1e9)
    assert [row["n_jobs"] for row in result["jobs"]] == [1]
    assert "<svg" in figure.read_text(encoding="utf-8")
