import json
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments.claims import search_methods
from experiments.shared.subnetwork import subnetwork
from varpro_nn import load


@pytest.fixture
def linear(rng):
    return rng.standard_normal((40, 6)), rng.standard_normal((40, 3))


@pytest.mark.parametrize("name", search_methods.SOLVES)
def test_solves_agree_with_numpy(name, linear):
    Phi, tau = linear
    A, rank, _ = search_methods.SOLVES[name](Phi, tau)
    assert_allclose(A, np.linalg.lstsq(Phi, tau)[0], atol=1e-12)
    assert rank == 6


@pytest.mark.parametrize("name", [name for name in search_methods.SOLVES if name != "QR"])
def test_solves_find_a_repeated_column(name, linear):
    Phi, tau = linear
    Phi[:, 4] = Phi[:, 1]
    A, rank, _ = search_methods.SOLVES[name](Phi, tau)
    smallest = np.linalg.lstsq(Phi, tau)[0]
    assert rank == 5
    assert_allclose(Phi @ A, Phi @ smallest, atol=1e-12)
    if name != "QR, pivoted":  # a basic solution: one of the two columns alone
        assert_allclose(A, smallest, atol=1e-12)


def test_plain_qr_does_not_survive_a_repeated_column(linear):
    Phi, tau = linear
    Phi[:, 4] = Phi[:, 1]
    A, _, _ = search_methods.by_qr(Phi, tau)
    assert not np.abs(A).max() < 1e10


def test_differences_follow_the_full_jacobian():
    told = search_methods.jacobians(load("digits").train, (60, 2), 0, ("full", "2-point"), 6)
    full, differences = told["full"], told["2-point"]
    assert_allclose(differences["costs"], full["costs"], rtol=1e-4)
    # One evaluation for each of 18 weights at each Jacobian.
    n_jacobians = len(full["costs"])
    assert full["evaluations"] == 6
    assert differences["evaluations"] == full["evaluations"] + 18 * n_jacobians


def test_steepest_descent_goes_down(monkeypatch):
    functional, w0 = subnetwork(load("digits").train, 60, 2, (0, 0), np.float64)
    cost, evaluated, from_here = functional.cost, [], []
    gradient = functional.gradient
    monkeypatch.setattr(functional, "cost", lambda w: evaluated.append(cost(w)) or evaluated[-1])
    monkeypatch.setattr(functional, "gradient", lambda w: from_here.append(cost(w)) or gradient(w))
    path = search_methods.steepest_descent(functional, w0, 0.05)
    assert [cost for cost, _ in path] == evaluated  # each of them, rejected steps too
    assert len(evaluated) > len(from_here)
    assert from_here[0] == cost(w0)
    assert (np.diff(from_here) < 0).all()
    assert min(evaluated) < 0.99 * from_here[0]


def test_searches_tell_lowest_costs_so_far():
    told = search_methods.searches(load("digits").train, (60, 1), 0, 0.02)
    assert set(told) == set(search_methods.SEARCHES)
    for row in told.values():
        lowest = list(row["lowest"].values())
        assert lowest == sorted(lowest, reverse=True)
        assert row["evaluations"] >= 1
    for name in ("lsmr", "exact", "l-bfgs-b", "steepest descent"):
        assert list(told[name]["lowest"].values())[-1] < 0.99 * told[name]["start"]


def test_quick_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search_methods", "--quick"])
    search_methods.main()
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert sum(line.startswith("**") for line in table) == 5
    for title, rows in result.items():
        if title.startswith("Jacobians"):
            for row in rows:
                starts = {kind["costs"][0] for kind in row.values()}
                assert len(starts) == 1
        if title.startswith("Linear solve"):
            for row in rows:
                assert all(told["rank"] == 6 for name, told in row.items() if "full" in name)
