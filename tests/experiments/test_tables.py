"""The experiments keep the contract of their last line, at a size that takes seconds."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import (
    accuracy_table,
    bench_features,
    bench_subnetwork,
    calibration,
    glue_memory,
    linear_classifiers,
    matrix_equality,
)
from varpro_nn import load, patch_units
from varpro_nn.errors import DatasetError
from varpro_nn.training.resources import peak_memory_mib
from varpro_nn.units import ACTIVATIONS


@pytest.fixture(autouse=True)
def mnist():
    try:
        load("mnist", progress=False)
    except DatasetError as error:
        pytest.skip(f"MNIST cannot be had: {error}")


def last_line(module, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_bench_subnetwork(monkeypatch, capsys):
    small = ["--n-images", "150", "--n-units", "4", "--max-nfev", "4"]
    result = last_line(bench_subnetwork, small, monkeypatch, capsys)
    paths = {"default", "full", "reduced", "dense_lsmr", "exact", "minpack", "joint"}
    assert set(result["rows"]) == paths
    cost = {name: row["cost"] for name, row in result["rows"].items()}
    assert result["ratio_minpack_to_default"] > 0
    evaluations = {name: row["evaluations"] for name, row in result["rows"].items()}
    assert evaluations == dict.fromkeys(paths, 4) | {"minpack": 2}
    start = result["rows"]["default"]["start"]
    assert all(each < start for each in cost.values())
    # Without projection, with the full Jacobian or an exact solve other steps are taken.
    others = [cost[name] for name in ("full", "exact", "joint", "minpack")]
    assert len({round(each, 6) for each in [cost["default"], *others]}) == 5
    # The capped solves are the same method on three forms of one problem.
    assert cost["reduced"] == pytest.approx(cost["dense_lsmr"], rel=0.01)
    assert cost["default"] == pytest.approx(cost["dense_lsmr"], rel=0.01)


def test_glue_memory(monkeypatch, capsys):
    small = ["--images", "400", "800", "--n-units", "40", "--n-jobs", "1"]
    result = last_line(glue_memory, small, monkeypatch, capsys)
    assert [row["n_images"] for row in result["rows"]] == [400, 800]
    for row in result["rows"]:
        assert row["peak_mib"] >= row["before_mib"] > 20


def test_peak_memory_is_that_of_the_glue(monkeypatch):
    peak, already = peak_memory_mib(), np.ones(0)

    def fit_ridge(units, W, training, compute):
        nonlocal already
        already = np.ones((round(peak) + 300) * 2**17)  # eight bytes each
        return SimpleNamespace(penalty=1.0, error_rates=[0.5])

    monkeypatch.setattr(glue_memory, "fit_ridge", fit_ridge)
    row = glue_memory.measure(100, 5, 1)
    assert row["peak_mib"] - row["before_mib"] > 200


def test_products_alone_are_all_of_them(monkeypatch):
    units, done = patch_units("dense", (28, 28), 100, window=7), []
    monkeypatch.setattr(np, "matmul", lambda a, b, out: done.append(a.size * b.shape[1]))
    bench_features.products_alone(units, 64)
    places = 22 * 22
    assert sum(done) == 64 * places * 100 * (7 * 7 + 1)


def test_bench_features(monkeypatch, capsys):
    small = ["--n-images", "64", "--n-units", "3"]
    result = last_line(bench_features, small, monkeypatch, capsys)
    assert set(result["activations"]) == set(ACTIVATIONS)
    for row in result["activations"].values():
        assert row["features"] > 0
        assert row["products"] > 0


def test_accuracy_table_takes_rows_from_the_file(tmp_path, monkeypatch, capsys):
    """Five seeds of trained and untrained units, their means, and nothing run twice."""
    small = {"recipe": "tiny", "n_units": 2, "n_subnetworks": 1, "n_train": 600, "max_nfev": 1}
    monkeypatch.setitem(accuracy_table.ROWS, "mnist", {"tiny": small | {"n_copies": 0, "shift": 0}})
    file = tmp_path / "rows.jsonl"
    arguments = ["experiment", "mnist", "--output", str(file), "--n-jobs", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    accuracy_table.main()
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    trained = [r["result"] for r in rows if r["result"]["scheme"] == "independent"]
    assert len(rows) == 10
    assert len(trained) == 5
    assert f"{np.mean([m['test_accuracy'] for m in trained]):.4f} ±" in printed
    accuracy_table.main()
    assert capsys.readouterr().out == printed
    assert len(file.read_text(encoding="utf-8").splitlines()) == 10


def test_matrix_equality(tmp_path, monkeypatch, capsys):
    """Both forms give the same outputs; rows in the file are not measured again."""
    file = tmp_path / "rows.jsonl"
    small = ["--quick", "--output", str(file)]
    result = last_line(matrix_equality, small, monkeypatch, capsys)
    at = {(row["form"], row["n_images"], row["n_layers"]): row for row in result["rows"]}
    assert set(at) == {
        ("primal", 1500, 0), ("primal", 1500, 1), ("dual", 400, 0), ("primal", 400, 0),
        *(("dual", 400, k) for k in (1, 2, 4)), *(("primal", 400, k) for k in (1, 2)),
    }  # fmt: skip
    assert at["primal", 400, 0]["largest_difference"] < 1e-10
    assert at["primal", 400, 2]["largest_difference"] < 1e-2
    assert [at["dual", 400, k]["predicted_cheaper"] for k in (1, 2)] == ["primal", "dual"]
    assert at["dual", 400, 2]["n_parameters"] == 2 * 64 * 10 + (512 + 1) * 10
    text = file.read_text(encoding="utf-8")
    again = last_line(matrix_equality, small, monkeypatch, capsys)
    assert again["rows"] == result["rows"]
    assert file.read_text(encoding="utf-8") == text


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


def test_linear_classifiers_go_on_where_they_stopped(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "rows.jsonl"
    arguments = ["--quick", "--output", str(file)]
    first = last_line(linear_classifiers, arguments, monkeypatch, capsys)
    assert len(first["rows"]) == 16
    assert {row["n_parameters"] for row in first["rows"]} == {650}
    by_name = {(row["name"], row["centred"]): row["test_accuracy"] for row in first["rows"]}
    for name in ("LinearDiscriminantAnalysis", "fit_linear softmax", "RidgeClassifierCV"):
        assert by_name[name, False] == pytest.approx(by_name[name, True], abs=0.01)
        assert by_name[name, False] > 0.8
    written = file.read_text(encoding="utf-8")
    assert last_line(linear_classifiers, arguments, monkeypatch, capsys) == first
    assert file.read_text(encoding="utf-8") == written


def test_calibration(monkeypatch, capsys, tmp_path):
    kept = ["--quick", "--output", str(tmp_path / "rows.jsonl")]
    (row,) = last_line(calibration, kept, monkeypatch, capsys)["rows"]
    assert row["recipe"] == "default"
    assert row["calibration_error"] < row["calibration_error_without"]
    missed, sizes = zip(*((s["missed"], s["mean_size"]) for s in row["sets"]), strict=True)
    assert missed[0] <= missed[1] <= missed[2] <= 0.1
    assert sizes[0] >= sizes[1] >= sizes[2] >= 1
    monkeypatch.setattr(calibration, "measure", lambda *_: pytest.fail("measured twice"))
    assert last_line(calibration, kept, monkeypatch, capsys)["rows"] == [row]
