from experiments.field import two_layers


def test_quick_run(run_script):
    rows = run_script(two_layers, "digits", "--quick")[1]["rows"]
    assert [(row["layers"], row["units"]) for row in rows] == [
        (layers, units) for layers in ("one", "two")
        for units in ("untrained", "trained", two_layers.TOGETHER)
    ]  # fmt: skip
    assert all(0.5 < row["held_out_accuracy"] <= 1 for row in rows)
    one, two = {row["n_parameters"] for row in rows[:3]}, {row["n_parameters"] for row in rows[3:]}
    assert len(one) == len(two) == 1
    assert one != two
    assert all(row["cpu_seconds"] > 0 for row in rows)
