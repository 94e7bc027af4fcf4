"""The C of the source against its own formula, and the parts of the grid of penalties."""

import json
import sys

import numpy as np
import pytest

from experiments.claims import regularisation
from varpro_nn import VarProFunctional, configure, load, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data.images import one_hot
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.training.layers import train_units


@pytest.mark.parametrize("C", [3.0, 400.0])
def test_one_c_is_the_objective_of_the_source(C, rng):
    """f = 1/(2C) theta'theta + 1/l sum of squares is 2/l of the cost at lam = nu = l/(2C)."""
    units = whole_image_units("bilinear", (5, 5), 3)
    images, labels = rng.uniform(size=(40, 5, 5)), rng.integers(4, size=40)
    tau = one_hot(labels, 4)
    penalty = regularisation.penalty_of(C, len(images))
    functional = VarProFunctional(
        units, images, tau, ridge=penalty, weight_decay=penalty, dtype=np.float64
    )
    W = units.init(images, rng)
    at = functional.evaluate(W.ravel())
    z = np.hstack([units.features(W, images), np.ones((40, 1))]) @ at.A
    losses = [np.sum((z[i] - tau[i]) ** 2) for i in range(40)]
    theta = np.concatenate([W.ravel(), at.A[:-1].ravel()])  # but for the constant's row
    f = theta @ theta / (2 * C) + sum(losses) / 40
    assert at.cost == pytest.approx(40 / 2 * f, rel=1e-10)
    assert regularisation.c_of(penalty, 40) == pytest.approx(C)


def test_no_penalty_is_an_infinite_c():
    assert regularisation.c_of(0.0, 100) == np.inf
    assert regularisation.penalty_of(np.inf, 100) == 0
    assert regularisation.named(0.0, 100) == "none"
    assert regularisation.named(0.1, 2000) == "0.1 (C = 10,000)"


def grid(values):
    """Rows of one seed for a grid of held-out accuracies, lines along nu."""
    penalties = (0.0, 0.1, 1.0)
    return {
        (nu, lam): [{"one C": {"held out": values[i][j]}}]
        for i, nu in enumerate(penalties)
        for j, lam in enumerate(penalties)
    }


def test_effects_are_ranges_along_the_lines_of_the_grid():
    found = grid([[0.1, 0.1, 0.1], [0.9, 0.8, 0.8], [0.9, 0.8, 0.6]])
    all_of_them = regularisation.effects(found, "one C", none=True)
    assert all_of_them["W"] == pytest.approx((0.8 + 0.7 + 0.7) / 3)
    assert all_of_them["A"] == pytest.approx((0.0 + 0.1 + 0.3) / 3)
    without = regularisation.effects(found, "one C", none=False)
    assert without["W"] == pytest.approx((0.0 + 0.2) / 2)
    assert without["A"] == pytest.approx((0.0 + 0.2) / 2)


def test_best_pair_has_the_highest_mean_and_of_equals_the_larger_penalties():
    found = grid([[0.1, 0.9, 0.1], [0.2, 0.9, 0.9], [0.3, 0.3, 0.3]])
    assert regularisation.best_pair(found, ["one C"]) == ((0.1, 1.0), "one C")
    found[0.1, 1.0].append({"one C": {"held out": 0.5}})
    assert regularisation.best_pair(found, ["one C"]) == ((0.1, 0.1), "one C")


def test_rows_are_those_of_glues_by_themselves():
    digits = load("digits")
    config = configure(data=digits, **regularisation.QUICK_CASES["bilinear"])
    config = config.with_options(ridge=2.0, weight_decay=0.3, max_nfev=2)
    train, held_out = digits.train.take(slice(600)), digits.train.take(slice(600, None))
    row = regularisation.measure(config, {"train": train, "held out": held_out}, 300, 10)
    trained = train_units(config, TrainingSet(train.images, train.labels, 10), Compute())
    Phi = trained.units.features(trained.W, held_out.images)
    # 150 images a sub-network and lam = 2: C = 37.5; 300 images in the output layer: lam = 4.
    for layer, ridge in (("one C", 4.0), ("leave-one-out", regularisation.RIDGES)):
        of_layer = TrainingSet(train.images[:300], train.labels[:300], 10)
        report = fit_ridge(trained.units, trained.W, of_layer, Compute(), ridge=ridge)
        codes = (Phi @ report.A[:-1] + report.A[-1]).argmax(axis=1)
        assert row[layer]["held out"] == pytest.approx(np.mean(codes == held_out.labels))
        assert row[layer]["ridge"] == report.penalty
        assert row[layer]["norm_A"] == pytest.approx(np.linalg.norm(report.A[:-1]))
        assert row[layer]["n_parameters"] == 12 * 17 + 13 * 10
    assert "train" not in row["one C"]


def test_quick_run(monkeypatch, capsys):
    small = {"bilinear": {**regularisation.QUICK_CASES["bilinear"], "n_units": 4, "max_nfev": 2}}
    monkeypatch.setattr(regularisation, "QUICK_CASES", small)
    monkeypatch.setattr(sys, "argv", ["experiment", "--quick"])
    regularisation.main()
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])["cases"]["bilinear"]
    pairs = {(row["nu"], row["lam"]) for row in result["grid"]}
    assert pairs == {(nu, lam) for nu in (0.0, 0.1, 1.0) for lam in (0.0, 0.1, 1.0)}
    by_pair = {(row["nu"], row["lam"]): row["rows"][0] for row in result["grid"]}
    # A heavier penalty on W makes W smaller, whatever that on A.
    for lam in (0.0, 0.1, 1.0):
        norms = [by_pair[nu, lam]["one C"]["norm_W"] for nu in (0.0, 0.1, 1.0)]
        assert norms == sorted(norms, reverse=True)
    test = result["test"]
    assert test["best of one C for all"]["pair"][0] == test["best of one C for all"]["pair"][1]
    assert test["default"]["pair"] == [0.1, 1.0]
    best = max(
        row[layer]["held out"] for row in by_pair.values() for layer in ("one C", "leave-one-out")
    )
    chosen = test["highest held-out accuracy"]
    assert by_pair[tuple(chosen["pair"])][chosen["layer"]]["held out"] == best
    assert "**" in printed
