import pytest

from experiments.field import held_out_runs


def test_rows_have_the_settings_that_are_given(run_script):
    few = "--n-units 8 --n-subnetworks 2 --max-nfev 2"
    printed, told = run_script(
        held_out_runs, "digits", "--quick", "--seeds", "2",
        "--run", f"{few} --scheme independent --n-stages 1 --whitening none",
        "--run", "--recipe bilinear --n-units 20 --n-subnetworks 1 --scheme untrained",
    )  # fmt: skip
    patches, whole = told["rows"]
    assert patches["settings"]["whitening"] is None
    assert whole["settings"]["recipe"] == "bilinear"
    assert [run["seed"] for run in patches["runs"]] == [0, 1]
    assert [run["n_units"] for run in patches["runs"] + whole["runs"]] == [8, 8, 20, 20]
    assert {run["scheme"] for run in whole["runs"]} == {"untrained"}
    assert {run["n_train"] for run in patches["runs"]} == {300}
    assert {run["n_test"] for run in patches["runs"]} == {500}  # a third of 1,500
    assert "n_units=8" in "".join(printed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("--n-unit-s 3", "'--n-unit-s 3' has unsupported options: --n-unit-s 3. Give a recipe"),
        ("--n-units x", "could not read '--n-units x'"),
        ("--n-jobs 3", "unsupported options: n_jobs"),
        ("--glue-ridge 5", "unsupported options: glue_ridge"),
        ("--seed 3", "unsupported options: seed"),
        ("--recipe auto", "unsupported options: recipe"),
    ],
)
def test_settings_that_there_are_not(settings, message, run_script, capsys):
    with pytest.raises(SystemExit):
        run_script(held_out_runs, "digits", "--quick", "--run", settings)
    assert message in capsys.readouterr().err
