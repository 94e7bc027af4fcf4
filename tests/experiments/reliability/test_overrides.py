from experiments.reliability import overrides
from varpro_nn import configure


def test_a_pair_is_twice_as_much(run_script, in_this_process, mnist, monkeypatch):
    in_this_process(overrides)
    monkeypatch.setattr(overrides, "load", lambda *_: mnist)
    monkeypatch.setattr(overrides, "N_TEST", 500)
    (row,) = run_script(overrides, "--quick")[1]["rows"]
    few, many = row["runs"]
    assert row["doubled"] == "units"
    assert few["recipe"] == many["recipe"] == "default"
    assert (
        min(
            few["cpu_seconds"],
            many["cpu_seconds"],
            few["held_out_accuracy"],
            many["held_out_accuracy"],
        )
        > 0
    )


def test_marks_of_a_pair():
    def cells(seconds, accuracy):
        found = [
            {"cpu_seconds": s, "held_out_accuracy": a, "error": 0.01}
            for s, a in zip(seconds, accuracy, strict=True)
        ]
        return overrides.cells_of(found)

    assert cells((1, 2), (0.9, 0.88))[""] == ""
    assert cells((1, 2.7), (0.9, 0.8))[""] == "slow, worse"
    assert overrides.cells_of([{"refused": "no"}, {"refused": "never"}])["accuracy"] == "no"


def test_every_recipe_has_pairs_that_configure_takes():
    for recipe, units in overrides.UNITS.items():
        pairs = list(overrides.pairs_of(recipe, units))
        assert len(pairs) >= 8
        for _, *both in pairs:
            for options in both:
                configure(recipe, **options)
