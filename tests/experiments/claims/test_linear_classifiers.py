import numpy as np
import pytest

from experiments.claims import linear_classifiers


@pytest.mark.parametrize("name", linear_classifiers.METHODS)
def test_test_labels_choose_no_linear_classifier(name):
    """With others nothing changes but what is measured by them."""
    settings = linear_classifiers.Settings("digits", 100, (1.0, 10.0), (1.0, 10.0), (1e-3, 1e-2))
    rows = []
    for shift in (0, 1):
        measurement = linear_classifiers.Measurement(settings)
        measurement._z = np.roll(measurement._z, shift)
        rows.append(measurement.other(name, False))
    one, two = rows
    different = {key for key in one if one[key] != two[key] and "seconds" not in key}
    assert different == {"test_accuracy", "standard_error"}


@pytest.mark.slow
def test_linear_classifiers_go_on_where_they_stopped(run_script, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "rows.jsonl"
    arguments = ["--quick", "--output", str(file)]
    first = run_script(linear_classifiers, *arguments)[1]
    assert len(first["rows"]) == 16
    assert {row["n_parameters"] for row in first["rows"]} == {650}
    by_name = {(row["name"], row["centred"]): row["test_accuracy"] for row in first["rows"]}
    for name in ("LinearDiscriminantAnalysis", "fit_linear softmax", "RidgeClassifierCV"):
        assert by_name[name, False] == pytest.approx(by_name[name, True], abs=0.01)
        assert by_name[name, False] > 0.8
    written = file.read_text(encoding="utf-8")
    assert run_script(linear_classifiers, *arguments)[1] == first
    assert file.read_text(encoding="utf-8") == written
