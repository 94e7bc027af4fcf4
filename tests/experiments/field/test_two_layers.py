from experiments.field import two_layers


def test_quick_run(run_script):
    rows = run_script(two_layers, "digits", "--quick")[1]["rows"]
    assert [(row["layers"], row["units"]) for row in rows] == [
        ("one", "untrained"), ("one", "trained"), ("two", "untrained"), ("two", "trained"),
        ("two", "trained on batches of all images"),
    ]  # fmt: skip
    assert all(0.5 < row["held_out_accuracy"] <= 1 for row in rows)
    one, two = {row["n_parameters"] for row in rows[:2]}, {row["n_parameters"] for row in rows[2:]}
    assert len(one) == len(two) == 1
    assert one != two
    assert rows[3]["cpu_seconds"] > rows[2]["cpu_seconds"]
