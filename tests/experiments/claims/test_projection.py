import json
import sys

import numpy as np
import pytest

from experiments.claims import projection
from varpro_nn import load
from varpro_nn.varpro.fit import fit


def test_condition_is_the_ratio_of_the_singular_values(rng):
    J = rng.standard_normal((20, 5)) * [1, 2, 3, 4, 50]
    H = J.T @ J
    assert projection.condition(H) == pytest.approx(np.linalg.cond(J) ** 2)
    unit = J / np.linalg.norm(J, axis=0)
    assert projection.condition(H, scaled=True) == pytest.approx(np.linalg.cond(unit) ** 2)


def test_condition_leaves_out_what_does_not_move_and_ends_at_rounding():
    assert projection.condition(np.diag([3.0, 0.0, 6.0])) == pytest.approx(2)
    assert projection.condition(np.ones((2, 2))) > 1e15


def test_reached_counts_iterations_until_near_the_lowest():
    path = [(200.0, 0.0), (110.0, 1.0), (100.95, 2.0), (100.5, 3.0)]
    told = projection.reached(path, 100.0)
    assert told["10.0%"] == [1, 1.0]
    assert told["1.0%"] == [2, 2.0]
    assert told["0.1%"] is None
    assert (told["iterations"], told["cost"], told["start"]) == (3, 100.5, 200.0)


def test_verdicts_count_seeds():
    early = {"cost": 100.0, "cost_15": 110.0, "10.0%": [15, 2.0]}
    late = {"cost": 101.0, "cost_15": 120.0, "10.0%": [30, 1.0]}
    never = {"cost": 150.0, "cost_15": 160.0, "10.0%": None}
    results = [
        {"fits": {"projected, lsmr": p, "joint, lsmr": j}}
        for p, j in ((early, late), (late, early), (early, never))
    ]
    (text,) = projection.verdicts(results)
    assert text == (
        "Projected against joint, lsmr: lower after 15 iterations in 2 of 3 seeds, at the end in 2;"
        " within 10 % in fewer iterations in 2, in less CPU time in 2."
    )


def test_spread_writes_the_range_of_several():
    assert projection.spread([2, 2], "{:.0f}") == "2"
    assert projection.spread([1, 2, 6], "{:.0f}") == "3 (1-6)"


def test_path_holds_the_start_and_the_accepted_steps():
    functional, w0 = projection.subnetwork(load("digits").train, 100, 3, (0, 0))
    accepted = []
    report = fit(functional, w0, max_nfev=12, callback=lambda r: accepted.append(r.cost))
    costs = [cost for cost, _ in projection.path_of(report)]
    assert costs[0] == functional.cost(w0)
    assert costs[1:] == list(dict.fromkeys(accepted))
    assert (np.diff(costs) < 0).all()


def test_the_same_draw_for_the_same_seed():
    train = load("digits").train
    (a, v), (b, w), (_, other) = (
        projection.subnetwork(train, 50, 2, seed) for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(v, w)
    np.testing.assert_array_equal(a.design.inputs, b.design.inputs)
    assert (v != other).any()


def test_quick_run(monkeypatch, capsys, tmp_path):
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["projection", "--quick", "--output", str(file)])
    projection.main()
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    for compared in result["compared"].values():
        for row in compared:
            starts = {round(told["start"], 3) for told in row["fits"].values()}
            assert len(starts) == 1
            for told in row["fits"].values():
                assert told["cost"] <= told["cost_15"] <= told["start"]
                assert told["0.1%"] is None or told["10.0%"][0] <= told["0.1%"][0]
            # Some fit is the lowest.
            assert any(told["0.1%"] is not None for told in row["fits"].values())
            projected, joint = row["conditions"][::2], row["conditions"][1::2]
            for p, j in zip(projected, joint, strict=True):
                assert (p["method"], j["method"]) == ("projected", "joint")
                assert p["condition"] <= 1.001 * j["condition"]  # a theorem
    text = file.read_text(encoding="utf-8")
    projection.main()
    assert file.read_text(encoding="utf-8") == text
    # Nothing is measured again.
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["compared"] == result["compared"]
