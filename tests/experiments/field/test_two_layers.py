from experiments.field import two_layers


def test_quick_run(run_script):
    rows = run_script(two_layers, "digits", "--quick")[1]["rows"]
    assert [(row["layers"], row["scheme"]) for row in rows] == [
        ("one", "untrained"), ("one", "independent"), ("two", "untrained"), ("two", "independent"),
    ]  # fmt: skip
    assert all(0.5 < row["held_out_accuracy"] <= 1 for row in rows)
    assert rows[0]["n_parameters"] == rows[1]["n_parameters"] != rows[2]["n_parameters"]
    assert rows[3]["cpu_seconds"] > rows[2]["cpu_seconds"]
