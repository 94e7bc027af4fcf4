from experiments.field import two_layers


def test_quick_run(run_script):
    """All layers, each untrained and trained; the two have the same parameters."""
    rows = run_script(two_layers, "digits", "--quick")[1]["rows"]
    apart, together = two_layers.IN_SUBNETWORKS, two_layers.ON_BATCHES
    assert [(row["layers"], row["units"]) for row in rows] == [
        *((layers, units) for layers in ("one", "two")
          for units in (two_layers.UNTRAINED, apart, together)),
        *((layers, units) for layers in ("three", "three, output layer sees all")
          for units in (two_layers.UNTRAINED, together)),
    ]  # fmt: skip
    assert all(0.4 < row["held_out_accuracy"] <= 1 for row in rows)
    counts = {
        number: {row["n_parameters"] for row in rows if row["layers"] == number}
        for number in two_layers.NUMBERS
    }
    assert all(len(count) == 1 for count in counts.values())
    assert len(set.union(*counts.values())) == len(counts)
    assert all(row["cpu_seconds"] > 0 for row in rows)


def test_some_layers_alone(run_script):
    rows = run_script(two_layers, "digits", "--quick", "--layers", "two")[1]["rows"]
    assert {row["layers"] for row in rows} == {"two"}
