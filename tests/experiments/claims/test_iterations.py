import json
import sys

import numpy as np
import pytest

from experiments.claims import iterations
from experiments.shared.subnetwork import subnetwork
from varpro_nn import load
from varpro_nn.varpro.fit import fit


def test_histogram_counts_each_subnetwork_once():
    row = {"fall_by_15": 0.5, "cpu_seconds": 1.0}
    counts = [1, 10, 11, 15, 16, 99, None]
    cells = iterations.histogram("name", counts, [row] * len(counts))
    some = [cells[f"ended in {bin_}"] for bin_ in ("1-10", "11-15", "16-20", "61-99")]
    assert some == ["2", "2", "1", "1"]
    assert cells["not within 100 evaluations"] == "1"
    assert cells["median, where ended"] == "13"
    bins = [int(cells[name]) for name in cells if name.startswith("ended in")]
    assert sum(bins) + 1 == len(counts) == int(cells["sub-networks"])


@pytest.mark.parametrize("solver", ["lsmr", "lm"])
def test_iterations_are_the_steps_that_lowered_the_cost(solver):
    part = load("digits").train
    options = iterations.DEFAULT | {"solver": solver}
    told = iterations.iterations(part, (100, 3), (0, 0), iterations.PENALTIES, options)
    functional, w0 = subnetwork(part, 100, 3, (0, 0), **iterations.PENALTIES)
    report = fit(functional, w0, **options)
    costs = np.array([record.cost for record in report.history])
    lower = costs < np.minimum.accumulate(np.append(np.inf, costs))[:-1]
    assert told["iterations"] == np.count_nonzero(lower) - 1
    assert told["cost"] == report.cost == costs.min()
    assert 0 < told["fall_by_15"] <= 1
    steps = costs[lower]
    first = told["first_below_1_percent"]
    assert steps[first] > 0.99 * steps[first - 1]
    assert (steps[1:first] <= 0.99 * steps[: first - 1]).all()


def test_quick_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["iterations", "--quick"])
    iterations.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["iterations"]
    loose, tight = (result[name][0] for name in ("0.1 %, LSMR", "1e-6 (default), LSMR"))
    # The same sub-network from the same start: one goes on where the other stops.
    assert loose["converged"]
    assert tight["iterations"] > loose["iterations"]
    assert tight["cost"] < loose["cost"]
    for rows in result.values():
        assert all(0 < row["iterations"] < 100 for row in rows)
